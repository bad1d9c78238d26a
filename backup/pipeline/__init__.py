"""Bytes on their way: compression, encryption, read-ahead. Nothing here knows what they mean."""
