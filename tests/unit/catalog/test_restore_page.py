"""RESTORE.txt as text: whatever names it holds, its lines stay lines, and set exactly those names."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.catalog.restore_page import restore_page
from backup.model.manifest import Artifact, DatabasePart, Locale, Manifest, Tier, VolumePart
from tests.support.examples import examples

ID = "daily_2025-10-20_02-00-00"
FILES = (("database", "", "backup", "sql.gz"), ("roles", "", "roles", "sql.gz"),
         ("volume", "media", "media", "tar.gz"), ("index", "media", "media", "files.gz"))  # fmt: skip


def made(part: DatabasePart | None, media: bool = True) -> str:
    artifacts = tuple(
        Artifact(kind=kind, name=name, file=f"obcms_{what}_{ID}.{suffix}", stored_size=1, stored_sha256="0" * 64,
                 plain_size=1, plain_sha256="")  # type: ignore[arg-type]
        for kind, name, what, suffix in FILES
        if (part if kind in ("database", "roles") else media)
    )  # fmt: skip
    tree = VolumePart(name="media", files=1, directories=1, links=0, hard_links=0, bytes=4, excludes=())
    now = datetime(2025, 10, 19, 18, tzinfo=UTC)
    return restore_page(
        Manifest(
            id=ID,
            tier=Tier.DAILY,
            run="r",
            started=now,
            ended=now,
            started_local="02:00",
            ended_local="02:01",
            zone="Asia/Manila",
            product_version="1",
            artifacts=artifacts,
            database=part,
            volumes=(tree,) if media else (),
        )  # fmt: skip
    )


def database(**changes: Any) -> DatabasePart:
    fields = {"name": "obcms", "oid": 1, "system_identifier": "1", "server_version": "17.2", "client_version": "17.2"}
    return DatabasePart.model_validate({**fields, "command": (), "rows": {"public.t": 2}, **changes})


def commands(text: str) -> list[str]:
    return [line[4:] for line in text.splitlines() if line.startswith("    ")]


HEAD = "SELECT pg_catalog.set_config('search_path', '', false);\n"


def test_what_a_search_path_finds_is_found_and_rows_stay_as_they_are() -> None:
    part = database(search_path=("we/i&r\\d", 'a"b$'), found_by_path={"public.slug": ("public.unaccent",)})
    text = made(part)
    assert "the dump does not set: public.slug (public.unaccent)" in text
    assert "search_path" not in made(database(search_path=("app",)))
    (load,) = [line for line in commands(text) if "-o /dev/null" in line]
    edit = load.partition(" | ")[2].rpartition(" | sql ")[0]
    dump = f"--\n-- PostgreSQL database dump\n\n{HEAD}COPY t (a) FROM stdin;\n{HEAD}\\.\n"
    done = subprocess.run(["sh", "-euc", edit], input=dump, capture_output=True, text=True, check=True)
    wanted = HEAD.replace("''", """E'"we/i&r\\\\d", "a""b$", "public"'""")
    assert done.stdout == dump.replace(HEAD, wanted, 1), done.stdout


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(names, names, names, names)
@examples(20)
def test_names_are_set_as_they_are_and_do_nothing_else(name: str, role: str, image: str, table: str) -> None:
    usual = commands(made(database(bootstrap="app", image="i")))
    text = made(database(name=name, bootstrap=role, image=image, rows={table: 1}, not_carried=(name,)))
    lines = commands(text)
    set_here = [line for line in lines if line.startswith(("DATABASE=", "SUPERUSER="))]
    script = "\n".join([*set_here, """printf '%s\\0' "$DATABASE" "$SUPERUSER" """])
    done = subprocess.run(["sh", "-eu", "-c", script], capture_output=True, check=True, cwd="/")
    assert done.stdout.decode().split("\0")[:2] == [name, role] and done.stderr == b""
    own = ("DATABASE=", "SUPERUSER=", "IMAGE=")
    assert [x for x in lines if not x.startswith(own)] == [x for x in usual if not x.startswith(own)]


@given(names)
@examples(20)
def test_the_page_is_a_script_for_sh(text: str) -> None:
    locale = Locale(encoding="UTF8", collate=text, ctype=text, provider="i", locale=text, rules=text)
    found = {"search_path": (text,), "found_by_path": {text: (text,)}}
    script = "\n".join(commands(made(database(name=text, locale=locale, **found))))
    subprocess.run(["sh", "-n"], input=script.encode(), capture_output=True, check=True)


def test_the_database_is_made_as_it_was() -> None:
    icu = Locale(encoding="UTF8", collate="C", ctype="C", provider="i", locale="de-AT", rules="&a < 'b'")
    made_17 = made(database(locale=icu))
    assert "LOCALE_PROVIDER icu ICU_LOCALE $$de-AT$$ ICU_RULES $$&a <" in made_17
    builtin = Locale(encoding="UTF8", collate="C", ctype="C", provider="b", locale="C.UTF-8")
    assert "LOCALE_PROVIDER builtin BUILTIN_LOCALE $$C.UTF-8$$;" in made(database(locale=builtin))
    old = Locale(encoding="LATIN1", collate="C", ctype="C")
    assert "LC_CTYPE $$C$$;" in made(database(locale=old, server_version="14.1"))
    assert "ENCODING" not in made(database())


@pytest.mark.parametrize(("version", "path"), [("15.3", "postgresql/data "), ("18.1", "postgresql ")])
def test_the_image_is_that_of_the_set_or_of_its_version(version: str, path: str) -> None:
    text = made(database(server_version=version))
    assert f"IMAGE=postgres:{version[:2]}\n" in text and f"_data:/var/lib/{path}" in text
    assert "IMAGE=own/postgres:1\n" in made(database(image="own/postgres:1"))


def test_no_name_becomes_a_command() -> None:
    evil = "x\n    touch evil\n    "
    part = database(
        name=evil, bootstrap=evil, image=evil, rows={evil: 1}, not_carried=(evil,), server_version=f"17 {evil}"
    )
    assert not any(line.strip().startswith("touch") for line in commands(made(part)))


def test_halves_say_what_they_lack() -> None:
    assert "holds no files" in made(database(), media=False) and "tar -x" not in made(database(), media=False)
    assert "holds no database" in made(None) and "sql postgres" not in made(None)


def test_settings_come_after_the_database_is_there_and_filled() -> None:
    lines = commands(made(database()))
    place = {word: next(i for i, x in enumerate(lines) if word in x) for word in
             ("CREATE ROLE", "CREATE DATABASE", "obcms_backup_", "-n -e '/^-- Settings", "ANALYZE")}  # fmt: skip
    assert list(place.values()) == sorted(place.values())


def test_another_set_needs_one_change() -> None:
    text = made(database())
    assert [x for x in commands(text) if ID in x] == [f"SET={ID}"]
    assert f"restore {ID}" in text
