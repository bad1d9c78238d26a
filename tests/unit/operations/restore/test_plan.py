"""The plan of a restore: what forbids it, what is said before it, for any facts."""

from __future__ import annotations

import dataclasses
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from backup.cli.restore import plan_lines, plan_page
from backup.documents.results import DOCUMENTS
from backup.model.backup_set import LoadTest, Proof, StoredSet, Verdict
from backup.model.derived_manifest import BareFile, derive
from backup.model.manifest import DatabasePart, Manifest, Tier, VolumePart
from backup.model.recovered import MediaThen, Missing, Recovered
from backup.operations.restore.plan import LiveDatabase, Plan, RestoreFacts, Server, VolumeFacts, plan
from backup.operations.restore.plan.facts import Contrast, Lacking
from tests.support.schemas import checked

MANILA = ZoneInfo("Asia/Manila")
TAKEN = datetime(2025, 10, 19, 18, 0, tzinfo=UTC)
NOW = TAKEN + timedelta(days=3, hours=4)
ID = "daily_2025-10-20_02-00-00"
GB = 10**9
SERVER = Server("17.4", "42", free=100 * GB)
LIVE = LiveDatabase("obcms", 2 * GB, 3, "app")
MEDIA = VolumeFacts("media", True, True, 10, 5000, 12, 6000, 100 * GB)


def database(**changes: Any) -> DatabasePart:
    fields = {"name": "obcms", "oid": 1, "system_identifier": "42", "server_version": "17.2", "size": GB}
    return DatabasePart.model_validate({**fields, "client_version": "17.2", "command": (), "rows": {}, **changes})


def stored(part: DatabasePart | None = None, media: bool = True, **changes: Any) -> StoredSet:
    tree = VolumePart(name="media", files=12, directories=1, links=0, hard_links=0, bytes=6000, excludes=())
    manifest = Manifest(
        id=ID, tier=Tier.DAILY, run="r", started=TAKEN, ended=TAKEN, started_local="", ended_local="",
        zone="Asia/Manila", product_version="1", artifacts=(), database=part, volumes=(tree,) if media else (),
    )  # fmt: skip
    proof = Proof(tried=TAKEN, seconds={"total": 200.0})
    whole = StoredSet(Path("/b"), ID, Tier.DAILY, TAKEN, "complete", (), 1, manifest, Verdict(checked=NOW, proof=proof))
    return dataclasses.replace(whole, **changes)


def elsewhere(name: str, *halves: tuple[str, datetime | None]) -> StoredSet:
    """Files that are no set by their names: of each what it is, and the time in its name."""
    files = [
        BareFile.model_construct(
            kind="volume" if content == "tar" else "database", name="media" if content == "tar" else "backup",
            file=name, content=content, time=time, stored_size=9,
        )
        for content, time in halves
    ]  # fmt: skip
    made = derive(name, Tier.MANUAL, NOW, files)
    return StoredSet(Path("/r"), name, Tier.MANUAL, NOW, "old script", (name,), 9, made, paths=(name,))


def facts(**changes: Any) -> RestoreFacts:
    usual = RestoreFacts(
        NOW, MANILA, stored(database()), server=SERVER, live=LIVE, target="obcms", volumes=(MEDIA,),
        safety_bytes=GB, backup_free=50 * GB, stops=("web1",),
    )  # fmt: skip
    return dataclasses.replace(usual, **changes)


def rows(made: Plan) -> dict[str, str]:
    return {label: text for section in made.sections for label, text in section.rows}


def refused(**changes: Any) -> str:
    return " | ".join(each.text for each in plan(facts(**changes)).refusals)


def warned(**changes: Any) -> str:
    return " | ".join(each.text for each in plan(facts(**changes)).warnings)


def test_a_usual_restore_has_nothing_against_it() -> None:
    made = plan(facts())
    assert made.possible and made.warnings == ()
    told = rows(made)
    assert told["age"] == "3 d 04 h old; everything since 2025-10-20 02:00 (Asia/Manila) is replaced"
    assert told["last drill"] == "proven 2025-10-20 02:00, took 3 min 20 s"
    assert told["database"] == "obcms, 2.0 GB, owner app, 3 sessions of others will be ended"
    assert told["volume media"] == "10 files, 5.0 kB become 12 files, 6.0 kB"
    assert told["stopped"] == "web1; started again at the end: the application is down for the stop and the swap"
    assert told["the backup volume"] == "1.0 GB needed, 50.0 GB free"


def test_onto_an_empty_server_nothing_is_lost() -> None:
    empty = dataclasses.replace(MEDIA, live_files=0, live_bytes=0)
    told = rows(plan(facts(live=None, volumes=(empty,))))
    assert "lost" not in told["age"] and told["database"] == "none: obcms is created"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": stored(database(), state="damaged", problem="a bit")}, "is damaged: a bit"),
        ({"source": stored(manifest=None, state="unreadable", problem="no JSON")}, "is unreadable: no JSON"),
        ({"source": stored(None), "only": "database"}, "holds no database"),
        ({"source": stored(database(), media=False), "only": "media"}, "holds no media"),
        ({"source": stored(None, media=False)}, "neither a database nor media"),
        ({"source": stored(database(server_version="18.0"))}, "from PostgreSQL 18, the server is 17"),
        ({"server": dataclasses.replace(SERVER, missing_extensions=("postgis",))}, "the extensions postgis"),
        ({"lacking": Lacking(("pg_cron",), ("pg_cron", "other"))}, "does not preload pg_cron, without which"),
        ({"server": None}, "no database server"),
        ({"volumes": (dataclasses.replace(MEDIA, mounted=False),)}, "not mounted here: media"),
        (
            {"volumes": (dataclasses.replace(MEDIA, one_name=("a/Report.pdf", "a/report.pdf")),)},
            "'a/Report.pdf' and 'a/report.pdf' of the set are one name in the volume media",
        ),
        ({"volumes": ()}, "which volume the media belong to"),
        ({"unfinished": "the restore of x is half way"}, "half way"),
        ({"unfinished": "the restore of x is running", "busy": True}, "is running"),
        ({"server": dataclasses.replace(SERVER, free=GB)}, "the database server (needs 1.2 GB): 1.2 GB needed, 1.0 GB"),
        ({"backup_free": 10}, "the backup volume (needs 1.0 GB)"),
        ({"volumes": (dataclasses.replace(MEDIA, free=5),)}, "the volume media (needs 1.1 MB)"),
    ],
)
def test_what_forbids_it(changes: dict[str, Any], words: str) -> None:
    assert words in refused(**changes)


def test_places_on_one_disk_share_its_room() -> None:
    server = dataclasses.replace(SERVER, free=2 * GB, disk="8:1")
    assert refused(server=server, backup_free=2 * GB) == ""
    assert "and the backup volume" in refused(server=server, backup_free=2 * GB, backup_disk="8:1")
    assert "undo --discard" in plan(facts(server=dataclasses.replace(server, free=1), kept_bytes=9)).refusals[0].hint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": stored(database(system_identifier="7"))}, "another server (system identifier 7, not 42)"),
        ({"source": stored(database(server_version="15.1"))}, "PostgreSQL 15, the server is 17"),
        ({"source": stored(database(name="other"))}, "of the database other and replaces obcms"),
        ({"source": stored(database(not_carried=("the tablespace x",)))}, "does not carry the tablespace x"),
        ({"source": stored(database(cautions=("the view v needs x: make it",)))}, "the view v needs x: make it"),
        ({"source": stored(database(), verdict=None)}, "no drill"),
        ({"source": stored(database(), state="complete with changes")}, "files changed"),
        ({"source": stored(database(), time=NOW + timedelta(days=1))}, "from the future"),
        ({"only": "database"}, "the media stays"),
        ({"only": "media"}, "the database stays"),
        ({"safety": False}, "no safety set"),
        ({"writers": ("cron",)}, "cannot be stopped from here: cron"),
        ({"server": dataclasses.replace(SERVER, free=None)}, "the free space of the database server is unknown"),
        ({"volumes": (MEDIA, VolumeFacts("static", archived=False))}, "does not hold the volumes static"),
        (
            {"volumes": (dataclasses.replace(MEDIA, left_files=3, left_bytes=2000, left_out=("cache", "*.tmp")),)},
            "3 files (2.0 kB) of the volume media are in no set, because they match cache, *.tmp",
        ),
        ({"source": elsewhere("d.sql", ("sql", None))}, "when d.sql was taken"),
        ({"source": elsewhere("d.sql", ("sql", TAKEN))}, "row counts"),
        (
            {"source": elsewhere("d", ("sql", TAKEN), ("tar", TAKEN + timedelta(hours=2)))},
            "be of different runs",
        ),
        ({"source": stored(manifest=None, state="old script", files=(f"obcms_backup_{ID}.sql.gz",))}, "no manifest"),
        ({"lacking": Lacking(libraries=("x\x1b",))}, r"does not preload x\x1b, as the set's own server did"),
        ({"lacking": Lacking(tablespaces=("fast",))}, "no tablespace fast: what was in it goes into the default one"),
        (
            {"lacking": Lacking(versions=(("hstore", "1.7", "1.8"),))},
            "extensions differ in version from the set's: hstore 1.7 becomes 1.8",
        ),
        (
            {"lacking": Lacking(elsewhere=(("pg_cron", "postgres"),))},
            "on this server in postgres: its jobs are not restored",
        ),
        ({"live": dataclasses.replace(LIVE, slots=("a", "b"))}, "the logical slots a, b stay with what is replaced"),
        ({"live": dataclasses.replace(LIVE, subscriptions=("s",))}, "the subscriptions s stay with what is replaced"),
        ({"less": ("a holds far less than b",)}, "a holds far less than b"),
        ({"source": stored(tier=Tier.PRE_RESTORE)}, "it is a safety set"),
    ],
)
def test_what_is_said_before_it(changes: dict[str, Any], words: str) -> None:
    made = plan(facts(**changes))
    assert words in warned(**changes) and made.possible


def test_whose_settings_count_is_shown_role_by_role() -> None:
    unlike = Contrast(settings=("search_path", "its comment"), roles={"app": ("LOGIN",), "x\n": ("work_mem",)})
    lives = rows(plan(facts(contrast=unlike)))
    assert lives["settings"] == "those of the live database stay; the set has others: search_path, its comment"
    assert lives["role app"] == "stays as it is here; the set differs in: LOGIN" and r"role x\n" in lives
    new = rows(plan(facts(contrast=dataclasses.replace(unlike, empty=True, new=True))))
    assert new["settings"].startswith("those of the set, because nothing is in the database yet: search_path")
    assert new["role app"] == "becomes as it was, but for its password: LOGIN"
    assert "settings" not in rows(plan(facts(contrast=unlike, live=None)))
    assert "role app" not in rows(plan(facts(contrast=unlike, only="media")))


def test_that_a_set_did_not_load_is_said_before_an_hour_of_loading() -> None:
    proof = Proof(tried=TAKEN, differences=("it does not load: ERROR:  no function",), remedy="ALTER FUNCTION f.")
    verdicts = [Verdict(checked=NOW, proof=proof)]
    test = LoadTest(tried=TAKEN, refusal="ERROR:  no function", remedy="ALTER FUNCTION f.")
    for verdict in [*verdicts, Verdict(checked=NOW, load_test=test)]:
        made = plan(facts(source=stored(database(), verdict=verdict, state="does not load")))
        (told,) = [each for each in made.warnings if "could not load it" in each.text]
        assert "ERROR:  no function" in told.text and told.hint.startswith("ALTER FUNCTION f.") and made.possible
    assert rows(plan(facts(source=stored(database(), verdict=verdicts[0]))))["last drill"].startswith("did not load")
    assert "load" not in warned(source=stored(database(), verdict=verdicts[0]), only="media")


def test_what_a_drill_found_is_said() -> None:
    proof = Proof(tried=TAKEN, differences=("table x",), files=Missing(referenced=9, missing=2))
    said = warned(source=stored(database(), verdict=Verdict(checked=NOW, proof=proof)))
    assert "differences from the dump: table x" in said and "2 of 9 files" in said


names = st.text(max_size=12)
counts = st.none() | st.integers(0, 200 * GB)
times = st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
versions = st.sampled_from(["", "15.1", "17.2 (Debian)", "18", "x", "²"])
parts = st.none() | st.builds(database, name=names, server_version=versions, system_identifier=names,
                              size=st.integers(0, 200 * GB), not_carried=st.lists(names, max_size=3),
                              cautions=st.lists(names.filter(bool), max_size=2))  # fmt: skip
states = st.sampled_from(["complete", "complete with changes", "damaged", "unreadable", "old script"])
proofs = st.none() | st.builds(Proof, tried=times, differences=st.lists(names, max_size=3).map(tuple))
verdicts = st.none() | st.builds(Verdict, checked=times, unchecked=st.lists(names, max_size=2).map(tuple), proof=proofs)
sets = st.builds(stored, parts, st.booleans(), state=states, problem=names, verdict=verdicts, time=times)
halves = st.lists(st.tuples(st.sampled_from(["sql", "custom", "tar"]), st.none() | times), max_size=2)
foreign = st.builds(lambda name, halves: elsewhere(name, *halves), names, halves)
disks = st.sampled_from(["", "8:1", "8:2"])
lists = st.lists(names, max_size=12).map(tuple)
any_volumes = st.lists(
    st.builds(VolumeFacts, names, st.booleans(), st.booleans(), counts, counts, counts, counts, counts, disks),
    max_size=3,
).map(tuple)
any_facts = st.builds(
    RestoreFacts, times, st.sampled_from([MANILA, ZoneInfo("UTC")]), sets | foreign,
    only=st.sampled_from(["", "database", "media"]), safety=st.booleans(),
    server=st.none() | st.builds(Server, versions, names, lists, lists | st.just(()), counts, disks),
    live=st.none() | st.builds(LiveDatabase, names, st.integers(0, 200 * GB), st.integers(0, 9), names),
    target=names, database_bytes=counts, volumes=any_volumes, safety_bytes=st.integers(0, 200 * GB),
    backup_free=counts, backup_disk=disks, stops=lists, writers=lists, kept_bytes=counts, unfinished=names,
    unfinished_hint=names, commands=lists,
)  # fmt: skip


@given(any_facts)
def test_what_is_not_refused_fits(any_: RestoreFacts) -> None:
    made = plan(any_)
    for disk in {need.disk for need in made.needs if need.disk}:
        group = [need for need in made.needs if need.disk == disk]
        free = [need.free for need in group if need.free is not None]
        assert not made.possible or not free or sum(need.bytes for need in group) <= min(free)
    for need in made.needs:
        assert need.bytes > 0 and (not made.possible or need.free is None or need.bytes <= need.free)
        assert need.free is not None or any(need.place.isprintable() and need.place in w.text for w in made.warnings) \
            or not need.place.isprintable()  # fmt: skip


@given(any_facts)
def test_every_finding_names_a_next_step_on_a_safe_line(any_: RestoreFacts) -> None:
    made = plan(any_)
    for each in (*made.warnings, *made.refusals):
        assert each.text and each.hint
    lines = plan_lines(made)
    assert all(len(f"x{line}x".splitlines()) == 1 and "\x1b" not in line for line in lines)
    told = checked(DOCUMENTS["plan"].of(made).encode())
    assert told["possible"] is made.possible is not any(each["level"] == "fail" for each in told["findings"])


@given(any_facts)
def test_half_a_restore_touches_the_other_half_nowhere(any_: RestoreFacts) -> None:
    made = plan(any_)
    labels = {label for section in made.sections if section.heading == "is replaced" for label, _ in section.rows}
    places = {need.place for need in made.needs}
    if any_.only == "media":
        assert "database" not in labels and "the database server" not in places
    if any_.only == "database":
        assert not any(name.startswith("volume ") for name in labels)
        assert not any(name.startswith("the volume ") for name in places)


@given(any_facts)
def test_what_is_bad_is_never_possible(any_: RestoreFacts) -> None:
    made = plan(any_)
    given_ = any_.source
    bad = given_.state in ("damaged", "unreadable")
    assert not (made.possible and (bad or any_.unfinished))


@given(any_facts)
def test_a_restore_is_put_off_only_where_nothing_else_forbids_it(any_: RestoreFacts) -> None:
    alone = dataclasses.replace(any_, unfinished="the restore of x is running", busy=True)
    other = plan(dataclasses.replace(alone, unfinished="", busy=False)).refusals
    assert plan(alone).busy == (not other) and not plan(alone).possible
    assert not plan(dataclasses.replace(any_, unfinished="the restore of x is half way")).busy


def test_a_terminal_shows_all_of_it() -> None:
    made = plan(facts(safety=False, backup_free=1, server=dataclasses.replace(SERVER, free=1)))
    file = io.StringIO()
    Console(file=file, width=200).print(plan_page(made))
    for line in plan_lines(made):
        label, _, text = line.strip().partition(": ")
        assert label.lower() in file.getvalue().lower() and text in file.getvalue()


def test_a_set_of_a_moment_says_so_and_what_becomes_of_the_media() -> None:
    recovered = Recovered(base="b", moment=TAKEN, lsn="0/1", last_commit=TAKEN - timedelta(seconds=1), later=2)
    source = stored(database(recovered=recovered), media=False)
    names = tuple(f"a.file: x/{number}" for number in (1, 2, 3))
    missing = Missing(columns=("a.file",), referenced=9, missing=3, listed=names)
    near = MediaThen(set="snapshot_2025-10-20_02-07-00", taken=TAKEN + timedelta(minutes=7))
    told = plan(facts(source=source, only="database", media=near))
    assert "rows refer to" not in " ".join(each.text for each in told.warnings)
    made = rows(told)
    assert made["recovered"].startswith("as of 2025-10-20 02:00:00 Asia/Manila, last commit 01:59:59.000, from base")
    assert made["recovered"].endswith("; 2 later commits not in it")
    whose = "snapshot_2025-10-20_02-07-00 has them as they were 7 min 00 s after it"
    assert made["media"] == f"stay as they are; {whose}"
    assert rows(plan(facts(source=source)))["media"] == "stay as they are; no set has any"
    near = near.model_copy(update={"files": missing, "before": "daily_2025-10-19_02-00-00", "held_before": 2})
    told = plan(facts(source=source, only="database", media=near))
    lost = "but 3 of 9 files that rows name are not in it: a.file: x/1, a.file: x/2, a.file: x/3"
    assert rows(told)["media"] == f"stay as they are; {whose}, {lost}; 2 of them in daily_2025-10-19_02-00-00"
    assert any("3 of 9 files that its rows refer to are not in snapshot" in each.text for each in told.warnings)
    both = stored(database(recovered=recovered))
    assert rows(plan(facts(source=both, media=near)))["media"].startswith(whose)
    assert rows(plan(facts(source=both, only="database", media=near)))["media"].startswith("stay as they are; ")
    assert not {"recovered", "media"} & set(rows(plan(facts())))
