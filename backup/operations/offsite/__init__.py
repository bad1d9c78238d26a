"""What is done with the copies of sets at another place: one verb per module."""
