"""Settings, by who uses them, and how they are read from the environment."""
