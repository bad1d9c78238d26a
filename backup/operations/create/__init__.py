"""Make a set."""
