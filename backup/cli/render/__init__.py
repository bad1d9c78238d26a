"""What people and programs see of a result. Builds; `cli` prints."""
