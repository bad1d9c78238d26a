"""Settings to live objects: the composition root."""
