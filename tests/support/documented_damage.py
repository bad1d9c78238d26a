"""What has happened before the commands of a section are typed: the damage that a page is about, made for real."""

from __future__ import annotations

import functools
import itertools
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.support.faults import eventually
from tests.support.keys import key_pair
from tests.support.operator_shell import Operator
from tests.support.s3 import Service
from tests.support.stack import docker

FILE = "uploads/2025/a.pdf"
_NUMBERS = itertools.count(901)
_ROWS = "SELECT string_agg(id || name, ',' ORDER BY id) FROM app_case"


@dataclass
class World:
    """The operator, where copies go, and the newer of two daily sets."""

    operator: Operator
    gateway: Service
    newer: str = ""

    def fill(self) -> None:
        """The table and the file that the pages' examples name."""
        self.operator.psql("CREATE TABLE app_case AS SELECT n AS id, 'case ' || n AS name FROM generate_series(1, 9) n")
        made = f"mkdir -p media/uploads/2025 && echo contract > media/{FILE} && chown -R 1000:1000 media"
        self.operator.must(f"docker compose exec -T -w /app/src web1 sh -c '{made}'")

    def whole(self) -> str:
        """Rows and file as they are now; empty if they are all there."""
        content = f"docker compose exec -T web1 cat /app/src/media/{FILE}"
        try:
            found = (self.operator.psql(_ROWS), self.operator.must(content))
        except AssertionError as error:
            return str(error)  # the commands before tell why
        return "" if found == (",".join(f"{n}case {n}" for n in range(1, 10)), "contract") else str(found)

    # --- what happens ---

    def rows_are_wrong(self) -> None:
        self.operator.psql("UPDATE app_case SET name = 'wrong' WHERE id < 5; DELETE FROM app_case WHERE id > 7")

    def rows_are_deleted(self) -> None:
        """At a moment of which there is WAL; the one before it is in the file `moment`."""
        self.operator.set(BACKUP_PITR="on")
        self.operator.must("docker compose up -d --wait backup")
        eventually(lambda: self._window().get("live"), 200, 1)
        before = self.operator.psql("SELECT clock_timestamp()::timestamptz(6)")
        (self.operator.folder / "moment").write_text(before)
        self.rows_are_wrong()
        eventually(lambda: datetime.fromisoformat(self._window()["end"]) > datetime.fromisoformat(before), 60, 1)

    def _window(self) -> Any:
        return json.loads(self.operator.must("docker compose exec -T backup backup moments --json 2>/dev/null"))

    def files_are_gone(self) -> None:
        self.operator.must("docker compose exec -T web1 rm -r /app/src/media/uploads")

    def both(self) -> None:
        self.rows_are_wrong()
        self.files_are_gone()

    def database_lost(self) -> None:
        self.operator.lose("postgres_data")

    def backups_lost(self) -> None:
        self.copied()
        self.operator.lose("obcms_backups")

    def all_but_the_application_lost(self) -> None:
        self.files_are_gone()
        self.operator.lose("postgres_data", "obcms_backups")

    def newer_set_lost(self) -> None:
        self.operator.must(f"docker compose exec -T backup sh -c 'rm /backups/daily/*{self.newer}*'")

    def copied(self) -> None:
        self.operator.must("backup upload --all")

    def exported(self) -> None:
        self.operator.must("backup export latest - > set.tar")

    def extracted(self) -> None:
        self.operator.must("backup extract latest --table app_case > app_case.sql")

    def machine_lost(self) -> None:
        self.operator.must("docker compose down -v -t 2")

    def restore_killed(self) -> None:
        """While it runs a command in the application, which is after the exchange: the service may not end it first."""
        self.operator.must("docker compose stop backup")
        command = f"sleep {next(_NUMBERS)}"  # one that is not still running from a kill before
        name = f"{self.operator.project}-killed"
        words = f"docker compose run --rm -T --name {name} -e BACKUP_POST_RESTORE='web1: {command}'"
        with subprocess.Popen(
            ["sh", "-c", f"exec {words} backup restore latest --force --no-safety"], cwd=self.operator.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                eventually(lambda: process.poll() is not None or command in self._running("web1"), 200, 0.2)
            finally:
                docker("rm", "-f", name)

    def damaged_restore_killed(self) -> None:
        self.rows_are_wrong()
        self.restore_killed()

    def _running(self, service: str) -> str:
        return subprocess.run(
            ["docker", "compose", "top", service], cwd=self.operator.folder, capture_output=True, text=True, check=False
        ).stdout

    def another_bucket(self) -> None:
        self.operator.set(AWS_S3_BACKUP_BUCKET=self.gateway.bucket())

    def no_identity_yet(self) -> None:
        (self.operator.folder / "backup-identity.txt").unlink(missing_ok=True)

    def encrypted_set(self) -> None:
        self._encrypt(key_pair(self.operator.folder / "backup-identity.txt"))
        self.operator.must("docker compose run --rm -T backup create manual --wait 120")

    def plain_set(self) -> None:
        self.operator.set(BACKUP_ENCRYPT="off")
        self.operator.must("docker compose run --rm -T backup create manual --wait 120")

    def identity_is_set(self) -> None:
        self._encrypt(self._public("backup-identity.txt"))

    def key_is_set(self) -> None:
        self._encrypt(self._public("key.txt"))
        self.operator.must("docker compose run --rm -T backup create manual --wait 120")

    def encrypted_files_here(self) -> None:
        """Of the set that was made with key.txt, the dump under the name that the page gives it."""
        self.operator.must("docker compose run --rm -T backup export latest - | tar -xf - --wildcards '*.sql.gz.age'")
        self.operator.must("mv obcms_backup_*.sql.gz.age FILE.sql.gz.age")
        self.operator.must("docker compose exec -T db createdb -U obcms_user look_again")

    def _encrypt(self, public: str) -> None:
        self.operator.set(BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=public)

    def _public(self, name: str) -> str:
        found = re.search(r"age1\w+", (self.operator.folder / name).read_text())
        assert found, name
        return found[0]

    def service_runs(self) -> None:
        self.operator.must("docker compose up -d --wait backup")
        self.copied()

    def settled(self) -> None:
        """A service that has just been started holds the volume's lock for a moment; then it says how it is."""
        for each in self.operator.must("docker compose ps -q backup 2>/dev/null").split():
            eventually(functools.partial(_judged, each), 300, 0.3)
            # Its first backup has made its set by now, and may still try whether it loads.
            eventually(functools.partial(_free, each), 300, 0.3)


def _judged(container: str) -> bool:
    return docker("inspect", "-f", "{{.State.Health.Status}}", container).strip() != b"starting"


def _free(container: str) -> bool:
    """Whether no run holds the volume's lock."""
    words = ["docker", "exec", container, "flock", "-n", "/backups/state/lock", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


Happening = Callable[[World], object]


@dataclass(frozen=True)
class Scene:
    """A section whose commands are run one after the other, whatever else ran; all is whole in the end."""

    page: str
    section: str
    # What happens before a command that looks like this (… stands for anything); the empty one is the section's first.
    before: dict[str, Happening]
    # Which stack it plays on: see reading.PARTS.
    part: str = "copies"

    @property
    def name(self) -> str:
        """What it is about."""
        return self.section or self.page

    def happening(self, number: int, command: str) -> list[Happening]:
        """What comes before this one of its commands."""
        patterns = {form: re.escape(form).replace("…", ".*") for form in self.before}
        return [
            happens
            for form, happens in self.before.items()
            if (number == 0 if not form else re.fullmatch(patterns[form], command))
        ]


_RUNBOOK = "docs/restore.md"
SCENES = (
    Scene(
        "docs/moments.md",
        "Somebody deleted rows at about ten past four",
        {"": World.rows_are_deleted},
        "moments",
    ),
    Scene(_RUNBOOK, "Wrong rows", {"": World.rows_are_wrong}, "losses"),
    Scene(_RUNBOOK, "Files are gone", {"": World.files_are_gone}, "losses"),
    Scene(_RUNBOOK, "A broken upgrade", {"": World.both}, "losses"),
    Scene(
        _RUNBOOK,
        "A restore was killed",
        {"": World.damaged_restore_killed, "… --rollback": World.restore_killed},
        "losses",
    ),
    Scene(_RUNBOOK, "The newest set is damaged", {"": World.service_runs}, "losses"),
    Scene(_RUNBOOK, "The database's volume is lost", {"": World.database_lost}, "losses"),
    Scene(_RUNBOOK, "The backup volume is lost", {"": World.backups_lost}, "losses"),
    Scene("docs/offsite.md", "Offsite copies", {"docker compose up -d db": World.all_but_the_application_lost}),
    Scene(_RUNBOOK, "The machine is lost", {"": World.machine_lost, "…:/identity:ro …": World.encrypted_set}),
    Scene(_RUNBOOK, "The bucket is lost", {"": World.another_bucket}),
    Scene(_RUNBOOK, "The key is lost", {"": World.no_identity_yet, "… create manual": World.identity_is_set}),
    Scene(
        "docs/offsite.md",
        "Encryption",
        {"… drill latest …": World.key_is_set, "age -d …": World.encrypted_files_here},
    ),
    Scene("docs/security.md", "The socket", {"… restore …": World.plain_set}),
    Scene("deploy/socket-proxy/docker-compose.socket-proxy.yml", "", {}),
)
