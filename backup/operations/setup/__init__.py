"""`setup`: an overlay for the project at hand, from what its containers say. Pure; `wiring_setup` asks the engine."""
