"""One verb per module: what is done with sets."""
