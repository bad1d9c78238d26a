"""Bring back the database of a moment."""
