"""What is said of the backups: health, forecast, overview, alerts."""
