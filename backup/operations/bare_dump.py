"""A dump without a manifest, plain or in pg_dump's custom format: read as SQL, and the roles that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from backup.errors import IntegrityError, LoadFailed
from backup.model.backup_set import StoredSet
from backup.operations.set_artifacts import content_of, open_file
from backup.operations.verify.bare_set import CUSTOM
from backup.operations.verify.run import Checked, check_set
from backup.operations.verify.set_files import Reader
from backup.pipeline.file_type import FileKind
from backup.postgres.clients import Clients
from backup.postgres.dump.definitions import RoleNames
from backup.postgres.dump.dump_digest import Outline
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.statements import one_line
from backup.postgres.scratch_server import Place
from backup.progress import Progress, Silent

_FIRST: Final = b"\n-- Name: "
_DROP: Final = re.compile(rb"^(?:DROP|ALTER [^\n]* DROP) ", re.MULTILINE)
# Without owners no object names one.
_OWNER: Final = re.compile(rb"^-- Name: .*; Owner: [^-\n]", re.MULTILINE)
# What shows that pg_dump was told to write in another way.
_OTHERWISE: Final = {
    "--enable-row-security": re.compile(rb"^SET row_security = on;$", re.MULTILINE),
    "--use-set-session-authorization": re.compile(rb"^SET SESSION AUTHORIZATION ", re.MULTILINE),
    "--quote-all-identifiers": re.compile(rb'^(?:CREATE|ALTER|DROP) [A-Z ]+"[a-z_]+"\."[a-z_]+"', re.MULTILINE),
    "--disable-dollar-quoting": re.compile(rb"^    LANGUAGE (?:plpg)?sql\b.*\n    AS '", re.MULTILINE),
}


def read_files(stored: StoredSet, clients: Clients, run: str, progress: Progress, reader: Reader) -> Checked:
    """Check all files; `reader` is given the dump among them as SQL. `clients` turn a custom-format one into that."""
    checked = check_set(stored, progress, outline=reader)
    custom = [name for name, content in checked.found.content.items() if content is FileKind.CUSTOM]
    if checked.problems or not custom:
        return checked
    for piece in _as_sql(stored, custom[0], clients, run):
        reader.feed(piece)
    reader.finish()
    unchecked = [each for each in checked.unchecked if not each.endswith(CUSTOM)]
    return checked._replace(unchecked=unchecked)


def with_roles(stored: StoredSet, place: Place, run: str) -> Place:
    """The place with the roles that the dump names, entered by the one that owns most: extensions are to be its own."""
    names = RoleNames()
    read_files(stored, place.clients, run, Silent(), DumpReader(names, counting=False))
    return place.for_roles([name for name, _ in names.found.most_common()], run)


def writer_options(head: bytes, outline: Outline) -> tuple[str, ...]:
    """How pg_dump was told to write a dump that begins so."""
    head, kinds = one_line(head), {each.kind for each in outline.sections.values()}
    parts = [
        key.replace("TABLE ATTACH", "TABLE DATA", 1) for key in outline.sections if key.startswith("TABLE ATTACH ")
    ]
    before = head.partition(_FIRST)[0]
    return (
        *("--format=plain", "--no-sync"),
        *(["--statistics"] if outline.statistics else []),
        *(["--clean"] if _DROP.search(before) else []),
        *(["--if-exists"] if b" IF EXISTS " in before else []),
        *([] if _OWNER.search(head) else ["--no-owner"]),
        *([] if {"ACL", "DEFAULT ACL"} & kinds else ["--no-privileges"]),
        *([] if "COMMENT" in kinds else ["--no-comments"]),
        *(["--load-via-partition-root"] if outline.roots and not outline.sections.keys() & set(parts) else []),
        *(option for option, shows in _OTHERWISE.items() if shows.search(head)),
    )


def _as_sql(stored: StoredSet, name: str, clients: Clients, run: str) -> Iterator[bytes]:
    with open_file(stored, name) as source:
        try:
            with clients.as_sql(content_of(stored, source), run) as pieces:
                yield from pieces
        except LoadFailed as error:
            if "unsupported version" in error.message:
                raise LoadFailed(
                    f"{name} was made by a newer pg_dump: {error.message}",
                    "Name an image of that version: `drill FILE --image IMAGE`.",
                ) from error
            raise IntegrityError(
                f"{name} cannot be read by pg_restore: {error.message}", "Copy it again, or use another one."
            ) from error
