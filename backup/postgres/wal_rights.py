"""What a server lets us have of its WAL: its settings, the senders that are in use, and the login's right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backup.postgres.server import maintenance
from backup.postgres.session import Login

# A receiver enters as the login itself, whatever role ALTER ROLE … SET role puts in its place.
_RIGHTS: Final = """
    SELECT session_user::text, rolsuper OR rolreplication, current_setting('wal_level'),
           current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication)::int,
           pg_is_in_recovery()
      FROM pg_roles WHERE rolname = session_user"""


def receiver_name(instance: str) -> str:
    """What the session of our receiver is called on the server."""
    # Sweeps end sessions of dead runs by how their names begin: this one is not to be among them.
    return f"obcms-backup-wal {instance}"


@dataclass(frozen=True)
class WalRights:
    """`role` may receive WAL if it is `allowed`. `senders` may send it side by side, `used` of them do now.

    `level` is the setting wal_level; `standby`: the server's WAL is another server's.
    """

    role: str
    allowed: bool
    level: str
    senders: int
    used: int
    standby: bool


def wal_rights(login: Login) -> WalRights:
    """Ask the server; DatabaseUnavailable when it does not answer."""
    with maintenance(login, "wal") as connection:
        return WalRights(*connection.execute(_RIGHTS).fetchall()[0])
