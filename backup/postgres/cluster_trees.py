"""Two trees of one cluster in its data folder, of which one is live: made beside it, exchanged, removed.

All lies in `<PGDATA>/pgsql_tmp_obcms_<stamp>/`: the directories `new` and `old`, each for the tree of that name while
it is not live. Base backups leave out what is called pgsql_tmp…, and a server that starts does not touch it there.

Only what the server itself makes is exchanged. Its configuration, certificates and logs stay where they are. The data
folder may be a mount point, which cannot be renamed, so its entries are, in an order by which no server ever starts on
a part: `global` holds pg_control, without which none does, so it leaves first and comes last. PG_VERSION leaves last
and comes first: so whose entries are in the data folder is told by which of the two directories lacks it, and a half
done exchange is completed in either direction by what is found. Each of the four is durable before the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from backup.docker.database_server import DatabaseServer
from backup.docker.engine import SpoolMount
from backup.errors import BackupError, DatabaseUnavailable, RestoreFailed, RestoreUnfinished
from backup.formatting import printable

ClusterTree = Literal["new", "old"]
TreesState = Literal["new", "old", "moving", "absent"]
_PREFIX: Final = "pgsql_tmp_obcms_"
_STAMP: Final = re.compile(r"[0-9]{14}")
_COMMON: Final = """
    set -eu
    cd "$0"
    fail() { echo "$2" >&2; exit "$1"; }
    shut() { pg_controldata "$1" | grep -q '^Database cluster state: *shut down$' || fail 4 "$2"; }
"""
# Of the server that answers: its own note says when it was started.
_LOOK: Final = (
    _COMMON
    + """
    pg_controldata . | sed -n 's/^Database system identifier: */system=/p'
    [ ! -e postmaster.pid ] || echo "started=$(sed -n 3p postmaster.pid)"
    echo "owner=$(stat -c %u:%g PG_VERSION)"
    echo "free=$(stat -f -c '%a %S' .)"
    [ ! -L pg_wal ] || echo "link=pg_wal"
    for each in base global pg_*/; do [ ! -L "${each%/}" ] || echo "link=${each%/}"; done
    [ -z "$(ls -A pg_tblspc)" ] || echo "tablespaces=there"
    # What is not known to be configuration may be an extension's data: half of it would belong to the other tree.
    for each in */; do
      case $each in
        base/ | global/ | pgsql_tmp*/ | conf.d/ | log/ | lost+found/) ;;
        pg_commit_ts/ | pg_dynshmem/ | pg_logical/ | pg_multixact/ | pg_notify/ | pg_replslot/ | pg_serial/) ;;
        pg_snapshots/ | pg_stat/ | pg_stat_tmp/ | pg_subtrans/ | pg_tblspc/ | pg_twophase/ | pg_wal/ | pg_xact/) ;;
        *) echo "other=$each" ;;
      esac
    done
"""
)
_PREPARE: Final = _COMMON + 'mkdir -m 700 "$1" "$1/new" "$1/old"; sync . "$1"'
_STATE: Final = (
    _COMMON
    + """
    [ -d "$1/new" ] && [ -d "$1/old" ] || { echo absent; exit 0; }
    for side in old new; do [ -e "$1/$side/PG_VERSION" ] || here=${here-}$side; done
    [ -e global ] && [ -e PG_VERSION ] && echo "${here-}" || echo moving
"""
)
_TAKEN: Final = _COMMON + 'du -sk "$1"'
_SETTLE: Final = (
    _COMMON
    + """
    beside=$1 live=$2
    case $live in new) other=old ;; *) other=new ;; esac
    move() {
      [ ! -e "$2/$3" ] && [ ! -L "$2/$3" ] || fail 3 "$3 is in $1 and in $2"
      mv "$1/$3" "$2/$3"
    }
    most() {
      for each in "$1"/base "$1"/pg_*/; do
        each=${each%/}
        [ ! -e "$each" ] || move "$1" "$2" "${each##*/}"
      done
      sync "$1" "$2"
    }
    [ -d "$beside/$live" ] && [ -d "$beside/$other" ] || fail 5 "$beside is not there"
    here=
    for side in old new; do [ -e "$beside/$side/PG_VERSION" ] || here=$here$side; done
    case $here in oldnew) fail 5 "$beside holds neither of both" ;; esac
    [ "$here" != "$live" ] || [ ! -e global ] || { sync . "$beside/$live"; exit 0; }
    if [ "$here" = "$other" ]; then
      if [ -e global ]; then
        shut "$beside/$live" "what is beside the live data was not shut down"
        shut . "the server did not shut down"
        move . "$beside/$other" global
        sync . "$beside/$other"
        # One that had passed its first look at pg_control by then has written this before its second.
        if [ -e postmaster.pid ]; then
          move "$beside/$other" . global
          sync . "$beside/$other"
          fail 4 "a server is running on the data, or was killed"
        fi
      fi
      most . "$beside/$other"
      move . "$beside/$other" PG_VERSION
      sync . "$beside/$other"
    fi
    if [ -e "$beside/$live/PG_VERSION" ]; then
      move "$beside/$live" . PG_VERSION
      sync . "$beside/$live"
    fi
    most "$beside/$live" .
    move "$beside/$live" . global
    sync . "$beside/$live"
"""
)
_DISCARD: Final = (
    '[ -e "$0/$1" ] || [ -e "$0/$1.gone" ] || exit 0'
    + _COMMON
    + """
    [ -e global ] && [ -e PG_VERSION ] || fail 5 "the data folder holds no whole cluster"
    # What is removed in part is no tree any more.
    [ ! -e "$1" ] || mv "$1" "$1.gone"
    rm -rf "$1.gone"
    sync .
"""
)
_UNTOUCHED: Final = 4


@dataclass(frozen=True)
class DataFolder:
    """What lies in the data folder of a running server. `started`: when, in seconds since 1970; `owner` as uid:gid.

    `links` are parts of the cluster that lie elsewhere, `others` directories of which it is not known whose they are.
    """

    system_identifier: str
    started: int
    owner: str
    free: int
    links: tuple[str, ...]
    others: tuple[str, ...]
    tablespaces: bool


@dataclass(frozen=True)
class ClusterTrees:
    """The trees of one restore, `stamp`, in the data of `server`."""

    server: DatabaseServer
    stamp: str

    @property
    def name(self) -> str:
        """The directory that holds them."""
        if not _STAMP.fullmatch(self.stamp):
            raise RestoreFailed(f"{printable(self.stamp)!r} is not the name of a restore; nothing was done")
        return _PREFIX + self.stamp

    def prepare(self) -> None:
        """Make both directories, empty."""
        self._run(_PREPARE, "make a place beside the live data")

    def inside(self, target: str) -> SpoolMount:
        """How a helper mounts the new tree at `target`, and nothing else."""
        return self.server.folder(f"{self.name}/new", target)

    def taken(self) -> int:
        """Bytes of what is beside the live data."""
        return int(self._run(_TAKEN, "measure the trees")[0].split()[0]) << 10

    def state(self) -> TreesState:
        """Which tree is live; `moving` in the middle of an exchange, `absent` where there are none."""
        said = self._run(_STATE, "look at the trees")[0]
        for known in get_args(TreesState):
            if said == known:
                return cast(TreesState, known)
        raise RestoreUnfinished(f"{self.where} holds what no restore leaves: {printable(said)}", "Look at it by hand.")

    def settle(self, live: ClusterTree) -> None:
        """Make that tree the live one, from whatever state. The server is to be stopped.

        DatabaseUnavailable when nothing was changed, RestoreUnfinished where only a part could be moved.
        """
        self._run(_SETTLE, "exchange the data", live, failed=RestoreUnfinished)

    def discard(self) -> None:
        """Remove what is not live; nothing to do where there is nothing."""
        self._run(_DISCARD, "remove what is beside the live data")

    @property
    def where(self) -> str:
        """Where they lie, in words."""
        return printable(f"{self.name} in {self.server.place.pgdata} of {self.server.place.name}")

    def _run(self, script: str, what: str, *words: str, failed: type[BackupError] = RestoreFailed) -> list[str]:
        code, lines, errors = self.server.run(script, [self.name, *words])
        if code:
            said = printable(" ".join(errors.split())[-300:])
            kind = DatabaseUnavailable if code == _UNTOUCHED else failed
            raise kind(
                f"could not {what} ({self.where}): {said or f'exit code {code}'}",
                f"`docker logs {printable(self.server.place.name)}` may say why.",
            )
        return lines


def look_at(server: DatabaseServer) -> DataFolder:
    """Look at the data folder from outside of the server; RestoreFailed when that is no cluster's."""
    code, lines, errors = server.run(_LOOK, [])
    found = [line.partition("=") for line in lines]
    values: Mapping[str, str] = {name: value for name, _, value in found}
    if code or "system" not in values or "free" not in values:
        raise RestoreFailed(
            f"{printable(server.place.pgdata)} of {printable(server.place.name)} cannot be looked at:"
            f" {printable(errors[-300:])}; nothing was touched",
            "Leave out --physical: then the one database is restored.",
        )
    blocks, each = values["free"].split()
    return DataFolder(
        system_identifier=values["system"],
        started=int(values.get("started") or 0),
        owner=values["owner"],
        free=int(blocks) * int(each),
        links=tuple(value for name, _, value in found if name == "link"),
        others=tuple(value for name, _, value in found if name == "other"),
        tablespaces="tablespaces" in values,
    )
