"""A long, random try of everything at once, with a checker that shares no code with the product: `make soak`."""
