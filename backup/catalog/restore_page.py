"""RESTORE.txt: how to restore the newest set of a directory by hand, without this product. Pure.

Lines that begin with four spaces are commands for sh, in the directory of the set. They need gunzip, sed, grep, tar
and sha256sum, docker or psql, and age for what is encrypted. Their names are quoted for the shell and for SQL: a
database may be called anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from backup.catalog.restore_packs import pack_checksums, packed_volume
from backup.formatting import listed, plural, printable, size
from backup.model.manifest import Artifact, DatabasePart, Manifest, VolumePart

PAGE: Final = "RESTORE.txt"
_SETTINGS: Final = "/^-- Settings of the database itself$/"
# Just such lines as pg_dumpall writes: a comment on a role may hold a line that begins like one.
_CREATE_ROLE: Final = r'/^CREATE ROLE ([a-z_][a-z0-9_$]*|"([^"]|"")+");$/'
_ROWS_SHOWN: Final = 200


def restore_page(manifest: Manifest) -> str:
    """The page for a directory whose newest set is this one."""
    blocks = [_head(manifest), _variables(manifest), _checksums(manifest)]
    if database := manifest.database:
        blocks += [*_servers(database), _roles(manifest, database), _load(manifest, database), _compare(database)]
    else:
        blocks.append("3. to 6. DATABASE\nThis set holds no database. Look for one that has an obcms_backup_… file.")
    blocks += [_volumes(manifest), _product(manifest)]
    return "\n\n".join(blocks) + "\n"


def _head(manifest: Manifest) -> str:
    lines = [
        "HOW TO RESTORE A SET OF THIS DIRECTORY BY HAND",
        "",
        f"Written for {manifest.id}, the newest set here when this page was written,",
        f"taken {manifest.started_local} ({manifest.zone}), {size(manifest.stored_size)}.",
        "For another set of this directory change SET in step 1; the rest holds unless the database changed its name,",
        "version or locale in between: its obcms_set_….json says.",
        "",
        "Lines indented by four spaces are commands for sh (bash, dash, …). Run them in this directory, in order,",
        "in one shell; stop when one fails. They need gunzip, sed, grep, tar and sha256sum, and either docker or psql.",
        "Nothing here touches a running application: a new database is made, and files go to a new directory.",
    ]
    if manifest.status != "complete":
        lines += ["", "Files changed while this set was taken; obcms_set_….json names them."]
    return "\n".join(lines)


def _variables(manifest: Manifest) -> str:
    lines = [
        "1. WHAT, AND WHERE TO",
        "TARGET is the directory that gets the files.",
        f"    SET={manifest.id}",
        '    TARGET="${TARGET:-./restored_$SET}"',
    ]
    if _encrypted(manifest):
        lines += [
            "The set is encrypted. KEY is the file with the private key of one of its recipients. It is not kept here,",
            "and without it nobody can read this set. `age` is a small program of its own (age-encryption.org).",
            '    KEY="${KEY:-./key.txt}"',
            '    grep -q . "$KEY" && command -v age',
        ]
    if manifest.incremental:
        lines += [
            "PACKS is the directory of the packs that the set needs. For a set that has .tar.gz files of its own, take",
            "the page of a directory whose newest set has such, too.",
            '    if [ -d packs ]; then PACKS="${PACKS:-packs}"; fi',
            '    PACKS="$(cd "${PACKS:-../packs}" && pwd)"',
        ]
    if manifest.database:
        lines += [
            "DATABASE is the database to make. SUPERUSER is the role that the server was initialised with.",
            *_variable("DATABASE", manifest.database.name),
            *_variable("SUPERUSER", manifest.database.bootstrap or "postgres"),
        ]
    return "\n".join(lines)


def _checksums(manifest: Manifest) -> str:
    whole = '    gunzip -t obcms_*_"$SET".*.gz'
    if _encrypted(manifest):
        whole = '    for file in obcms_*_"$SET".*.gz.age; do age -d -i "$KEY" "$file" | gunzip -t; done'
    return "\n".join(
        [
            "2. ARE THE FILES AS THEY WERE WRITTEN?",
            "Each line must end in OK. Do not go on when one does not: take another set.",
            '    sha256sum -c "obcms_set_$SET.sha256"',
            whole,
            *(pack_checksums() if manifest.packs else ()),
        ]
    )


def _servers(database: DatabasePart) -> tuple[str, str]:
    major = _major(database)
    # Before 18 the image declares this volume itself; from 18 on the directory above it, with one for each version.
    data = "/var/lib/postgresql/data" if major < 18 else "/var/lib/postgresql"
    own = [
        "3a. A SERVER OF ITS OWN, WITH DOCKER",
        f"The set is of PostgreSQL {printable(database.server_version)}; a newer server takes it, an older may not.",
        '    CONTAINER="${CONTAINER:-obcms-restore}"',
        f"    IMAGE={shlex.quote(printable(database.image) or f'postgres:{major}')}",
        '    docker run -d --name "$CONTAINER" -e POSTGRES_USER="$SUPERUSER" -e POSTGRES_DB=postgres'
        " -e POSTGRES_PASSWORD=\"$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')\""
        f' -v "$CONTAINER"_data:{data} "$IMAGE"{_preloading(database)}',
        '    until docker exec "$CONTAINER" pg_isready -q -h 127.0.0.1; do sleep 1; done',
        '    sql() { into="$1"; shift; docker exec -i -e PGDATABASE="$into" -e PGUSER="$SUPERUSER" "$CONTAINER"'
        ' psql -X -q -v ON_ERROR_STOP=1 -v db="$DATABASE" "$@"; }',
    ]
    theirs = [
        "3b. OR: A SERVER THAT IS THERE, WITH psql",
        "psql must not be older than the set's server. Log in as a superuser: first export PGHOST, PGPORT, PGUSER and",
        "PGPASSWORD as they are needed. Roles that are there already get the attributes and passwords of the set.",
        '    sql() { into="$1"; shift; PGDATABASE="$into" psql -X -q -v ON_ERROR_STOP=1 -v db="$DATABASE" "$@"; }',
        "    echo 'SELECT version();' | sql postgres",
    ]
    theirs += [f"It must preload: {printable(name)}" for name in database.preload.libraries]
    return "\n".join(own), "\n".join(theirs)


def _roles(manifest: Manifest, database: DatabasePart) -> str:
    artifact = manifest.artifact("roles")
    if artifact is None:
        return "4. ROLES\nThis set holds no roles; create those that own things in it before step 5."
    unpacked = _unpacked(artifact, manifest)
    lines = [
        "4. ROLES",
        "The first command creates them. `already exists` is no failure there: the role that initialised the server",
        "does. Any other failure shows in the second one, which gives them their attributes and memberships.",
        f"    {unpacked} | LC_ALL=C sed -n -E '{_CREATE_ROLE}p' | sql postgres -v ON_ERROR_STOP=0",
        f"    {unpacked} | LC_ALL=C sed -E -e '{_CREATE_ROLE}d' -e '{_SETTINGS},$d' | sql postgres",
    ]
    return "\n".join([*lines, *(f"Not in the set: {printable(item)}" for item in database.not_carried)])


def _load(manifest: Manifest, database: DatabasePart) -> str:
    dump, roles = manifest.artifact("database"), manifest.artifact("roles")
    lines = [
        "5. DATABASE",
        "If one of that name exists, the first command fails: choose another DATABASE in step 1.",
        f"    printf '%s\\n' {shlex.quote(_create(database))} | sql postgres",
    ]
    lines += [
        f"Tables lie in the tablespace {printable(name)}: make it before (CREATE TABLESPACE … LOCATION …), or the next"
        " command fails."
        for name in database.tablespaces
    ]
    if dump:
        lines += _dump(_unpacked(dump, manifest), database)
    if roles:
        lines += [
            "Owner, grants and settings of the database itself. They name the database as it was called: under another",
            "DATABASE leave this out, and run the printed statements with the new name.",
            f"    {_unpacked(roles, manifest)} | LC_ALL=C sed -n -e '{_SETTINGS},$p' | sql postgres",
        ]
    return "\n".join([*lines, "Statistics, without which queries are slow:", "    echo 'ANALYZE;' | sql \"$DATABASE\""])


def _preloading(database: DatabasePart) -> str:
    """The words of the server's command that let it load the libraries of the set."""
    if not database.preload.libraries:
        return ""
    settings = {"shared_preload_libraries": ",".join(database.preload.libraries)}
    if "pg_cron" in database.versions:
        settings["cron.database_name"] = database.name
    return "".join(f" -c {shlex.quote(printable(f'{name}={value}'))}" for name, value in settings.items())


def _dump(unpacked: str, database: DatabasePart) -> list[str]:
    """The commands that load the dump; its functions may need a search_path, its extensions may want to know of it."""
    lines, edits = _searching(database), [_searched(database)] if database.found_by_path else []
    if "timescaledb" not in database.versions:
        return [*lines, f'    {_edited(unpacked, edits)} | sql "$DATABASE" -o /dev/null']
    called = "DO $$BEGIN EXECUTE (SELECT format($f$SELECT %I.timescaledb_{}_restore()$f$, extnamespace::regnamespace)"
    called += " FROM pg_extension WHERE extname = $f$timescaledb$f$); END$$;"
    edits.append(f"/^CREATE EXTENSION IF NOT EXISTS timescaledb /a {called.format('pre')}")
    return [
        *lines,
        f'    {_edited(unpacked, edits)} | sql "$DATABASE" -o /dev/null',
        f"    echo '{called.format('post')}' | sql \"$DATABASE\"",
    ]


def _edited(unpacked: str, edits: Sequence[str]) -> str:
    words = "".join(f" -e {shlex.quote(each)}" for each in edits)
    return f"{unpacked} | LC_ALL=C sed{words}" if edits else unpacked


def _searching(database: DatabasePart) -> list[str]:
    """Why the dump is not loaded as it is."""
    found = [f"{name} ({', '.join(names)})" for name, names in sorted(database.found_by_path.items())]
    if not found:
        return []
    return [
        f"Functions find names by the search_path alone, which the dump does not set: {listed(found)}.",
        "So it is loaded with that of the database's own sessions. From 17 on that does not help what indexes",
        "and materialized views need: if it ends there, add SET search_path to the function in the dump.",
    ]


def _searched(database: DatabasePart) -> str:
    """The edit that has names found where the database's own sessions find them: of the first such line, the head's."""
    path = dict.fromkeys([*database.search_path, "public"])
    value = _literal(", ".join('"' + name.replace('"', '""') + '"' for name in path))
    value = re.sub(r"([\\&/])", r"\\\1", value)
    begins, ends = "SELECT pg_catalog.set_config('search_path', ", ", false);"
    line = f"/^{begins}''{ends}$/"
    return f"1,{line}s{line}{begins}{value}{ends}/"


def _compare(database: DatabasePart) -> str:
    rows = sorted(database.rows.items())
    query = (
        "SELECT format($f$SELECT %L, count(*) FROM ONLY %I.%I$f$,"
        " format($f$%I.%I$f$, nspname, relname), nspname, relname)"
        " FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = $f$r$f$"
        " AND nspname !~ $f$^(pg_|information_schema)$f$ ORDER BY 1 \\gexec"
    )
    lines = [
        "6. ARE ALL ROWS THERE?",
        f"The dump holds {plural(sum(database.rows.values()), 'row')} in {plural(len(rows), 'table')}"
        " (obcms_set_….json has all). This prints what is there now:",
        f"    printf '%s\\n' '{query}' | sql \"$DATABASE\" -A -t -F ': '",
        *(f"  {printable(name)}: {count}" for name, count in rows[:_ROWS_SHOWN]),
    ]
    if len(rows) > _ROWS_SHOWN:
        lines.append(f"  and {len(rows) - _ROWS_SHOWN} more")
    return "\n".join(lines)


def _volumes(manifest: Manifest) -> str:
    if not manifest.volumes:
        return "7. FILES\nThis set holds no files. Look for one that has a .tar.gz file."
    lines = [
        "7. FILES",
        "As root the files get their owners back. With GNU tar add --xattrs to get extended attributes too.",
        '    mkdir -p "$TARGET"',
    ]
    for volume in manifest.volumes:
        lines += _volume(manifest, volume)
    return "\n".join(
        [
            *lines,
            "Into a volume of docker they come from there, for example:",
            '  docker run --rm -v VOLUME:/to -v "$(realpath "$TARGET")":/from:ro IMAGE cp -a /from/media/. /to/',
        ]
    )


def _volume(manifest: Manifest, volume: VolumePart) -> list[str]:
    archive, index = manifest.artifact("volume", volume.name), manifest.artifact("index", volume.name)
    lines = packed_volume(manifest, volume) or [
        f"Volume {printable(volume.name)}: {plural(volume.files, 'file')}, {size(volume.bytes)}."
    ]
    if archive:
        plain = f"tar -xzpf {_file(archive.file, manifest)}"
        lines.append(
            f'    {f"{_unpacked(archive, manifest)} | tar -xpf -" if archive.encryption else plain} -C "$TARGET"'
        )
    if index and volume.files:
        lines += [
            "This compares the content of every file with the index, and prints those that differ:",
            f"    {_unpacked(index, manifest)} | LC_ALL=C sed -E 's/^(\\\\?[0-9a-f]{{64}})  [0-9]+  /\\1  /'"
            ' | (cd "$TARGET" && sha256sum --quiet -c -)',
        ]
    return lines


def _product(manifest: Manifest) -> str:
    return "\n".join(
        [
            "OR ALL OF IT WITH THE PRODUCT",
            "With the backup service in reach, one command does this, keeps what was there, and can undo it:",
            f"  docker compose run --rm backup restore {manifest.id}",
        ]
    )


def _major(database: DatabasePart) -> int:
    digits = database.server_version.split(".")[0].split(" ")[0]
    return int(digits) if digits.isdecimal() else 17


def _file(name: str, manifest: Manifest) -> str:
    """A file's name for the shell, for any set."""
    return f'"{name.replace(manifest.id, "$SET")}"'


def _unpacked(artifact: Artifact, manifest: Manifest) -> str:
    """The command that writes what an artifact holds."""
    file = _file(artifact.file, manifest)
    return f'age -d -i "$KEY" {file} | gunzip -c' if artifact.encryption else f"gunzip -c {file}"


def _encrypted(manifest: Manifest) -> bool:
    return any(artifact.encryption for artifact in manifest.artifacts)


def _create(database: DatabasePart) -> str:
    clause = f" {database.locale.clause(_literal, _major(database))}" if database.locale else ""
    return f'CREATE DATABASE :"db" TEMPLATE template0{clause};'


def _literal(text: str) -> str:
    """An SQL literal on one line; without quotes where it can be, for the shell has its own."""
    if text == printable(text) and not set(text) & {"$", "\\"}:
        return f"$${text}$$"
    return "E'" + printable(text.replace("\\", "\\\\")).replace("'", "''") + "'"


def _variable(name: str, value: str) -> list[str]:
    """Lines that set a shell variable to any value; what a terminal or an editor could act on goes in as octal."""
    if value == printable(value):
        return [f"    {name}={shlex.quote(value)}"]
    octal = "".join(f"\\{byte:03o}" for byte in value.encode("utf-8", "surrogateescape"))
    # The end is marked, because `$(…)` takes newlines off it.
    return [
        f"({name} is {printable(value)!r}; these bytes cannot be written here as they are.)",
        f"    {name}=\"$(printf '{octal}x')\"",
        f'    {name}="${{{name}%x}}"',
    ]
