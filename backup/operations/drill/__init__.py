"""Prove a set by restoring it."""
