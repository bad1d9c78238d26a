"""The service: scheduler, supervisor, HTTP."""
