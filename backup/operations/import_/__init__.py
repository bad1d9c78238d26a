"""Sets on their way into the backup volume."""
