"""Directory trees: walked, archived, extracted, exchanged."""
