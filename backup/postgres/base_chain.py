"""How a base backup and those that it builds on become one, where a cluster is recovered."""

from __future__ import annotations

from typing import Final

from backup.errors import BackupError, EngineError, IntegrityError
from backup.formatting import printable

EARLIER: Final = (
    "Ask for an earlier moment. `base --full` takes a new base backup, so that later moments can be had again."
)
# The server leaves a folder of such a name out of base backups: nothing of theirs is called so.
CHAIN_FOLDER: Final = "pgsql_tmp.links"
# A base and what builds on it, each in a folder of its own, become one: pg_combinebackup takes no tars. It compares who
# builds on whom; the sums of files that are taken over whole are the server's own, and all of it is read once more.
# Since 18 those files need not be copied. Maps of visible rows may say of rows that were deleted that everybody sees
# them: what clears a map is not always in the summaries. Without them nothing is believed. Somebody's hidden files are
# moved with the rest.
#
# Its words: the pipe, the folder, those of the links. None of these programs says how far it is, so a line goes into
# the pipe as often as one was seen to have used the processor since the line before.
COMBINE: Final = f"""
    set -e
    umask 077
    exec 3>"$0"
    cd "$1"
    shift
    watched() {{
        "$@" 3>&- &
        before=
        while read -r now 2>/dev/null <"/proc/$!/stat"; do
            case $now in *") Z "*) break ;; esac
            if [ "$now" != "$before" ]; then echo >&3; fi
            before=$now
            sleep 0.2
        done
        wait $!
    }}
    link=
    if pg_combinebackup --help | grep -q -e --link; then link=--link; fi
    watched pg_combinebackup --no-sync --manifest-checksums=SHA256 $link --output={CHAIN_FOLDER}/whole "$@"
    watched pg_verifybackup --no-parse-wal --quiet {CHAIN_FOLDER}/whole
    watched rm -rf "$@"
    watched find {CHAIN_FOLDER}/whole/base {CHAIN_FOLDER}/whole/global -type f -name '[0-9]*_vm*' -exec rm {{}} +
    find {CHAIN_FOLDER}/whole/pg_wal -mindepth 1 -maxdepth 1 -exec mv {{}} pg_wal/ \\;
    rmdir {CHAIN_FOLDER}/whole/pg_wal
    find {CHAIN_FOLDER}/whole -mindepth 1 -maxdepth 1 -exec mv {{}} . \\;
    rmdir {CHAIN_FOLDER}/whole {CHAIN_FOLDER}
"""
# What a program that was killed, or is not there, ends with; and what the others say that lack something.
_NOT_RUN: Final = 126
_WANTING: Final = ("No space left on device", "out of memory", "Cannot allocate memory")


def stalled(error: BackupError) -> EngineError:
    """Bases did not become one, because what puts them together stood still."""
    return EngineError(
        f"putting the base backup and those that it builds on together failed: {error.message}",
        "Is the machine overloaded, or the disk where the engine keeps its volumes failing? BACKUP_STALL_TIMEOUT sets"
        " the limit.",
    )


def uncombined(code: int, errors: str) -> BackupError:
    """Why bases did not become one: only what says something of them is held against them."""
    said = f"{printable(errors[-300:])}. Nothing was changed"
    if code >= _NOT_RUN or any(words in errors for words in _WANTING):
        return EngineError(
            f"putting the base backup and those that it builds on together failed, with exit code {code}: {said}",
            "Is there room where the engine keeps its volumes, and memory? `docker system df` shows what is used.",
        )
    return IntegrityError(f"the base backup and those that it builds on cannot be combined: {said}", EARLIER)
