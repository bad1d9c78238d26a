"""Sets on their way out of the backup volume."""
