"""Plain dumps as they stream by: read, changed for another server, compared."""
