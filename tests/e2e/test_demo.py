"""The demonstration, as `make demo` and `make demo-down` run it, under a name of its own beside others."""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from demo.show.stack import ROOT, Stack
from demo.show.state import State, compare, look
from tests.support.stack import ZONE, docker

PROJECT = f"obcms-demo-{os.getpid()}"
ENVIRONMENT = {
    "DEMO_PROJECT": PROJECT,
    "TZ": ZONE,
    "OBCMS_BACKUP_IMAGE": os.environ.get("OBCMS_BACKUP_IMAGE", "obcms-backup:latest"),
}
# What must not be there: a real stack's volume that happens to have the overlay's own name.
REAL = "obcms_backups"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`demo/run WORDS`; output is stdout and stderr together."""
    return subprocess.run(
        [ROOT / "demo" / "run", *words], env=os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=560, check=False,
    )  # fmt: skip


def objects() -> set[str]:
    """All containers, volumes, networks and images that carry the project's name."""
    listings = (
        ("ps", "-a", "--format", "container {{.Names}}"),
        ("volume", "ls", "--format", "volume {{.Name}}"),
        ("network", "ls", "--format", "network {{.Name}}"),
        ("image", "ls", "--format", "image {{.Repository}}"),
    )
    return {line for words in listings for line in docker(*words).decode().splitlines() if PROJECT in line}


@pytest.fixture(scope="module")
def told() -> Iterator[str]:
    """What a whole demonstration prints."""
    done = run("up")
    try:
        assert done.returncode == 0, done.stdout
        yield done.stdout
    finally:
        run("down")


def test_the_demonstration_and_its_end(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBCMS_BACKUP_IMAGE", ENVIRONMENT["OBCMS_BACKUP_IMAGE"])
    assert "   FAILED" not in told and "\033" not in told
    assert len(re.findall(r"^   ok      ", told, re.MULTILINE)) == 14
    assert "is proven: restored and dumped again" in told
    assert re.search(r"[\d,]+ rows missing, .*, table app_partnership gone", told)
    for name, words in {"status page": "Healthy", "application": "OBCMS demo", "mail": "BACKUP TEST MESSAGE"}.items():
        address = re.search(rf"^   {name} +(http://127\.0\.0\.1:\d+/)$", told, re.MULTILINE)
        assert address, told
        with urllib.request.urlopen(address[1], timeout=20) as response:  # noqa: S310 - http, this machine
            assert words in response.read().decode()
    healed = undone_and_redone()
    assert len(healed.tables) == 14 and len(healed.files) == 480
    before = docker("volume", "ls", "-q").decode().split()
    said = run("down").stdout
    assert said.startswith("demo: removed 5 containers, 4 volumes, 1 network, "), said
    assert objects() == set()
    after = docker("volume", "ls", "-q").decode().split()
    assert (REAL in before) == (REAL in after)
    assert run("down").stdout == "demo: nothing was there\n"


def undone_and_redone() -> State:
    """`undo` brings the last damage back, and once more takes it away."""
    stack = Stack(PROJECT)
    healed = look(stack)
    assert run("backup", "undo", "--force").returncode == 0
    assert compare(healed, look(stack)).rows > 5000
    assert run("backup", "undo", "--force").returncode == 0
    assert not compare(healed, look(stack))
    return healed
