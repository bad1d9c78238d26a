"""`doctor`: whether all that backups and restores need is there. Lines are made by pure functions from facts."""
