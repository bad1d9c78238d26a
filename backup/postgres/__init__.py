"""All that speaks SQL itself (psycopg): what a database is, and what is done to whole databases."""

from __future__ import annotations

from backup.postgres.inspect import Facts, end_sessions, inspect, settings_for
from backup.postgres.session import APPLICATION, Login, name_only

__all__ = ["APPLICATION", "Facts", "Login", "end_sessions", "inspect", "name_only", "settings_for"]
