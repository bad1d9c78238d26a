"""Which sets lie in the backup volume, how long they stay, and what every run did."""
