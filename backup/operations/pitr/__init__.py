"""Any moment: WAL as it is received, base backups, and what is removed of both."""
