"""Putting a set back: the new state is made beside the old one, judged, and exchanged with it."""
