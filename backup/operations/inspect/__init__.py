"""Looking into sets and taking single things out of them. Nothing here changes a set."""
