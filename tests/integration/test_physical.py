"""The whole cluster of a moment comes back in the database's own volume, wholly or not at all, whatever is killed."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import docker.errors as docker_errors
import psycopg
import pytest

from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server
from tests.support.faults import docker, eventually, seeded
from tests.support.moments import Story
from tests.support.physical import (
    DATA,
    NEW,
    OLD,
    as_before,
    beside,
    halted,
    live,
    physical,
    ran,
    received_again,
    telling,
    unfinished,
)
from tests.support.versions import FULL_SWEEP, MAJORS

# What the service does when it starts.
STARTED = """
from backup.app.composition import App
from backup.cli import base, serve
serve._recover(App(base.prepare_command(as_json=False)))
"""


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """One server for all; each test leaves it as it found it. A folder of the host, a volume, and one with a folder."""
    with tempfile.TemporaryDirectory() as folder:
        places = {15: {folder: DATA}, 17: {f"{PROJECT}-physical": DATA}, 18: {}}[request.param]
        volumes = {source: {"bind": target} for source, target in places.items()}
        with telling(request.param, volumes=volumes) as told:
            yield told
        docker("volume", "rm", "-f", f"{PROJECT}-physical")


def test_it_comes_back_and_goes_again(story: Story) -> None:
    told = physical(story, "--dry-run")
    assert told.code == 0, told.output
    for words in ("obcms_prod (", "other (", "last commit: ", "later commit", "B needed", "media: stay as they are"):
        assert words in told.output, told.output
    as_before(story)
    unasked = physical(story)
    assert unasked.code == 12, unasked.output
    as_before(story)
    done = physical(story, "--force")
    assert done.code == 0 and "could not be reached for" in done.output, done.output
    print(done.output.splitlines()[-1])
    assert live(story) == OLD and len(beside(story)) == 1
    undone = ran(story, "undo", "--force")
    print(undone.output.splitlines()[-1])
    assert live(story) == NEW
    ran(story, "undo", "--force")
    assert live(story) == OLD
    ran(story, "undo", "--force")
    ran(story, "undo", "--discard", "--force")
    as_before(story)


@pytest.mark.one_version
def test_the_outage_does_not_grow_with_the_data(story: Story) -> None:
    """Asked all the time, the server is away for about as long as it takes to stop and to start it."""
    story.server.execute(
        story.database, "CREATE TABLE large AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 300000) i"
    )
    try:
        with polled(story.server) as gaps:
            assert physical(story, "--force").code == 0
        restore = max(gaps)
        with polled(story.server) as gaps:
            ran(story, "undo", "--force")
        print(f"restore {restore:.2f} s, undo {max(gaps):.2f} s")
        # Three on an idle machine.
        assert restore < 15 and max(gaps) < 15
        ran(story, "undo", "--discard", "--force")
    finally:
        story.server.execute(story.database, "DROP TABLE large")
    as_before(story)


@contextmanager
def polled(server: Server) -> Iterator[list[float]]:
    """For how long the server did not answer, each time. It may get another address."""
    stop, gaps, addresses = threading.Event(), [0.0], [server.address]

    def poll() -> None:
        last = time.monotonic()
        while not stop.is_set():
            address = addresses[-1]
            try:
                with psycopg.connect(host=address, user=USER, password=PASSWORD, dbname="postgres", connect_timeout=2):
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now
            except psycopg.Error:
                with suppress(StopIteration, docker_errors.APIError):
                    addresses.append(server.address)
            time.sleep(0.01)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield gaps
        server.wait()
        seen = len(gaps)
        eventually(lambda: len(gaps) > seen)
    finally:
        stop.set()
        thread.join()


# A restore notes seven times, an undo six; it stops the server once and starts it twice.
POINTS = [f"note{n}" for n in range(1, 8)] + [f"run{n}" for n in range(1, 7)] + ["stop1", "start1", "start2"]


@pytest.mark.one_version
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("way", ["--resume", "--rollback"])
@pytest.mark.parametrize("command", ["restore", "undo"])
def test_killed_at_each_step(story: Story, command: str, way: str) -> None:
    """Noting, stopping, starting, a helper at work: before or behind each. Old or new, and the server runs."""
    choices, table = seeded(), []
    points = POINTS if FULL_SWEEP else sorted(choices.sample(POINTS, 3), key=POINTS.index)
    start, goal = (NEW, OLD) if command == "restore" else (OLD, NEW)
    if command == "undo":
        assert physical(story, "--force").code == 0
    for point in points:
        place: dict[str, Any] = {"BREAK_AT": f"{point} {choices.choice(['before', 'after'])}"}
        undone = command == "undo"
        result = story.sidecar.run("undo", "--force", **place) if undone else physical(story, "--force", **place)
        assert result.code in (0, -signal.SIGKILL), result.output
        if half_way := unfinished(story):
            refused = ran(story, "create", "daily", code=51)
            assert "--resume" in refused.output and "--rollback" in refused.output
            ran(story, "restore", way)
        now = live(story)
        table.append((place["BREAK_AT"], result.code, half_way, now))
        assert now in (OLD, NEW) and not unfinished(story), table
        assert way == "--resume" or not half_way or now == start, table
        if now == goal:
            ran(story, "undo", "--force")
        assert live(story) == start
        if command == "restore":
            ran(story, "undo", "--discard", "--force")
            as_before(story)
    print(command, way, *table, sep="\n  ")
    if command == "undo":
        ran(story, "undo", "--force")
        ran(story, "undo", "--discard", "--force")
    as_before(story)


@pytest.mark.one_version
@pytest.mark.parametrize("number", [1, 18, 19, 36] if FULL_SWEEP else [18])
def test_an_error_between_two_renames_is_rolled_back(story: Story, number: int) -> None:
    result = physical(story, "--force", BREAK_MOVE=str(number))
    assert result.code == 50 and "all is as before" in result.output, result.output
    as_before(story)


@pytest.mark.one_version
@pytest.mark.parametrize("way", ["--resume", "--rollback", "service"])
def test_a_helper_that_is_killed_with_its_sidecar(story: Story, way: str) -> None:
    number = str(seeded().choice(range(1, 37)))
    received_again(story)
    at = story.moments["then"].isoformat(" ")
    process = story.sidecar.start("restore", "--at", at, "--physical", "--force", BREAK_MOVE=number, BREAK_PAUSE="1")
    try:
        found = eventually(lambda: halted(story), 200)
        process.kill()
        process.communicate()
        if seeded().choice([True, False]):
            docker("kill", found)
        # Whoever starts the server now starts none on a part.
        docker("start", story.server.container.id)
        eventually(lambda: not running(story) or number == "36", 30)
        if way == "service":
            started = story.sidecar.root.parent / "started.py"
            started.write_text(STARTED)
            assert replace(story.sidecar, program=started).run().code == 0
        else:
            ran(story, "restore", way)
    finally:
        process.kill()
    assert live(story) == (NEW if way == "--rollback" else OLD), number
    if way != "--rollback":
        ran(story, "undo", "--force")
        ran(story, "undo", "--discard", "--force")
    as_before(story)


def running(story: Story) -> bool:
    return docker("inspect", "-f", "{{.State.Running}}", story.server.container.id) == "true"


@pytest.mark.one_version
def test_a_signal_rolls_back_and_leaves_the_server_running(story: Story) -> None:
    at = story.moments["then"].isoformat(" ")
    for count in (1, 18):
        received_again(story)
        process = story.sidecar.start(
            "restore", "--at", at, "--physical", "--force", BREAK_MOVE=str(count), BREAK_PAUSE="1"
        )
        eventually(lambda: halted(story), 200)
        process.terminate()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 128 + signal.SIGTERM, output
        as_before(story)


@pytest.mark.one_version
def test_the_application_is_never_left_stopped(story: Story) -> None:
    labels = {LABEL: PROJECT, "com.docker.compose.project": PROJECT, "com.docker.compose.service": "web1"}
    words = [f"--label={key}={value}" for key, value in (labels | {"com.docker.compose.oneoff": "False"}).items()]
    name = f"{PROJECT}-web1-physical"
    docker("run", "-d", f"--name={name}", *words, f"-v{story.sidecar.media}:/media", "obcms-test/app:latest")

    def up() -> bool:
        return docker("inspect", "-f", "{{.State.Running}}", name) == "true"

    try:
        for point in seeded().sample(
            ["stop1 before", "stop1 after", "start1 before", "start1 after", "note7 before"], 2
        ):
            assert physical(story, "--force", BREAK_AT=point).code == -signal.SIGKILL
            ran(story, "restore", "--rollback")
            assert up()
            as_before(story)
        done = physical(story, "--force")
        assert done.code == 0 and "the application was stopped for" in done.output and up(), done.output
        ran(story, "undo", "--force")
        assert up()
        ran(story, "undo", "--discard", "--force")
        as_before(story)
    finally:
        docker("rm", "-f", name)


@pytest.mark.one_version
def test_what_comes_after_it_can_be_had_too(story: Story) -> None:
    """A new timeline is received, a base is wanted and taken; and so it is when the old timeline is back."""
    for number, words in enumerate((("restore",), ("undo", "--force"))):
        result = story.sidecar.run(*words) if number else physical(story, "--force")
        assert result.code == 0, result.output
        # Until then the stream's record is from before the exchange.
        received_again(story)
        eventually(lambda: story.stream().get("state") == "streaming", 120, 0.2)
        if not number:
            assert "no base backup" in story.stream()["wants_base"]
        ran(story, "base")
        records = [json.loads(path.read_text()) for path in story.sidecar.root.rglob("bases/*.json")]
        sizes = [each["bytes"] for each in sorted(records, key=lambda each: str(each["ended"]))]
        assert sizes[-1] < 1.5 * sizes[0], "what is kept beside the live data is in no base backup"
        name = f"after {number}"
        story.execute(f"INSERT INTO t VALUES ({number + 3})", name)
        story.execute(f"DELETE FROM t WHERE n = {number + 3}", "later")
        story.level()
        made = story.create(name)
        assert made.code == 0, made.output
        assert story.rows(made.json["set"])[-1] == str(number + 3)
    ran(story, "undo", "--discard", "--force")
    as_before(story)
    again = physical(story, "--force")
    assert again.code == 0, again.output
    assert live(story) == OLD
    assert story.server.value("postgres", "SELECT timeline_id FROM pg_control_checkpoint()") > 2
    ran(story, "undo", "--force")
    ran(story, "undo", "--discard", "--force")
    as_before(story)


@pytest.mark.one_version
def test_what_forbids_it_is_told_before_anything_is_touched(story: Story) -> None:
    records = {path: path.read_text() for path in story.sidecar.root.rglob("bases/*.json")}
    story.server.execute("postgres", "SELECT pg_create_physical_replication_slot('standby1')")
    for path, text in records.items():
        path.write_text(text.replace(json.loads(text)["image_id"], "sha256:0"))
    try:
        refused = physical(story, "--force")
        assert refused.code == 50, refused.output
        for words in ("taken with another image", "follow this one (standby1)", "nothing was touched"):
            assert words in refused.output, refused.output
    finally:
        for path, text in records.items():
            path.write_text(text)
        story.server.execute("postgres", "SELECT pg_drop_replication_slot('standby1')")
    as_before(story)
    for usage in (["latest"], ["--at", "latest", "--only", "database"], ["--at", "latest", "--no-safety"]):
        assert story.sidecar.run("restore", "--physical", *usage).code == 2


def test_without_room_or_a_volume_it_is_refused() -> None:
    """A volume of 300 MB holds one small cluster, not two; and memory is no volume."""
    name = f"{PROJECT}-small"
    docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=300m", name)
    try:
        with telling(17, volumes={name: {"bind": DATA}}) as small:
            refused = physical(small, "--force")
            assert refused.code == 50 and "are free; the live cluster stays there" in refused.output, refused.output
            as_before(small)
    finally:
        docker("volume", "rm", "-f", name)
    with telling(17, in_memory=True) as passing:
        refused = physical(passing, "--force")
        assert refused.code == 10 and "lie on no volume" in refused.output, refused.output
        as_before(passing)


@pytest.mark.one_version
def test_what_is_kept_goes_when_its_days_are_over(story: Story) -> None:
    assert physical(story, "--force").code == 0
    ran(story, "undo", "--force", BACKUP_UNDO_DAYS="0")
    assert len(beside(story)) == 1
    ran(story, "create", "daily")
    as_before(story)
