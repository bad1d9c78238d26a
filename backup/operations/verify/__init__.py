"""Read a set and judge it."""
