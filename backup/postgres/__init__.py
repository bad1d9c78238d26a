"""All that speaks SQL itself (psycopg): what a database is, and what is done to whole databases."""
