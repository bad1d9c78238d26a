"""The demonstration from its first to its last step. Each claim is looked at past the sidecar before it is printed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from demo.show import prepare
from demo.show.screen import Claims, Failure, quote, say, step, styled, title
from demo.show.stack import Stack
from demo.show.state import Difference, State, compare, look, psql

_HARM_ROWS = (
    "DELETE FROM app_document WHERE case_id IN (SELECT id FROM app_case WHERE id % 2 = 0)",
    "DELETE FROM app_evidence WHERE case_id IN (SELECT id FROM app_case WHERE id % 2 = 0)",
    "DELETE FROM app_case WHERE id % 2 = 0",
    "UPDATE app_community SET households = 0",
    "DROP TABLE app_partnership",
)
_HARM_FILES = (
    "cd /app/src/media && rm -r ai_documents/pdf/2025/02 ai_documents/pdf/2025/03 policy_evidence"
    " && for file in partnerships/2025/*; do echo 'send money to get this back' > \"$file\"; done"
)


# What somebody enters after the backup, and what somebody else deletes a little later.
_ENTERED = (
    "INSERT INTO app_case (community_id, title, description, status, amount, received_at)"
    " SELECT min(id), 'Entered at four', 'After the last backup', 'open', 4, now() FROM app_community"
)
_DELETED = "DELETE FROM app_document; DELETE FROM app_evidence; DELETE FROM app_case WHERE title NOT LIKE 'Entered%'"


@dataclass
class Story:
    """What the steps hand on to each other."""

    stack: Stack
    claims: Claims = field(default_factory=Claims)
    whole: State = field(default_factory=lambda: State({}, {}))
    backup: dict[str, Any] = field(default_factory=dict)

    def tell(self) -> bool:
        """All steps; whether everything that was claimed is so."""
        began = time.monotonic()
        with step(2, "A small OBCMS starts: PostgreSQL 17, Django under gunicorn, a media volume, a mail catcher"):
            self._application()
        with step(3, "The sidecar is added by the shipped docker-compose.backup.yml; its first start takes a backup"):
            self._first_backup()
        with step(4, "Proof: the backup is restored into a throw-away server, dumped again and compared"):
            self._proof()
        with step(5, "Damage, on purpose"):
            self._damage()
        with step(6, "Restore"):
            self._restore()
        with step(7, "Everything is compared with what there was before the damage"):
            self._compare()
        with step(8, "Later: somebody enters a case, somebody deletes all others. Back to the second before"):
            self._moment()
        with step(9, "The sidecar goes on: the next backup, mail, status page"):
            self._watched()
        if self.stack.s3:
            with step(10, "Copies in an object store: sent, read back, and restored from the bucket alone"):
                self._offsite()
        self._end(time.monotonic() - began)
        return not self.claims.failed

    def _application(self) -> None:
        self.stack.compose("up", "-d", "web1", "mail", *(["s3"] if self.stack.s3 else []))
        healthy = self._healthy(180)
        self.whole = look(self.stack)
        size = self.stack.compose("exec", "-T", "web1", "du", "-sm", "/app/src/media").split()[0]
        say(f"{self.whole.rows:,} rows in {len(self.whole.tables)} tables, {len(self.whole.files)} files of {size} MB.")
        self.claims.check(healthy, f"the application answers at {self.stack.url('app')}")

    def _healthy(self, seconds: float = 60) -> bool:
        """Whether the application answers within so many seconds."""
        deadline = time.monotonic() + seconds
        while '"healthy"' not in self.stack.page("app", "/health/"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return "OBCMS demo" in self.stack.page("app")

    def _first_backup(self) -> None:
        quote("$ docker compose up -d --wait backup")
        self.stack.compose("up", "-d", "--wait", "--wait-timeout", "180", "backup")
        self.stack.backup("list")
        self.backup = self._newest()
        rows = (self.backup.get("database") or {}).get("rows", 0)
        self.claims.check(
            bool(self.backup.get("good")), "there is one complete set, every byte of it read back from the disk"
        )
        self.claims.check(rows == self.whole.rows, f"it says that it holds {rows:,} rows, as many as psql counts")

    def _newest(self) -> dict[str, Any]:
        """The daily set; nothing if there is none."""
        found = self.stack.answer("list", "daily")["sets"]
        return dict(found[0]) if found else {}

    def _proof(self) -> None:
        code = self.stack.backup("drill", "latest", "--wait", "120")  # the first backup may still try whether it loads
        self.claims.check(code == 0 and bool(self._newest().get("proven")), "the set is proven")

    def _damage(self) -> None:
        for statement in _HARM_ROWS:
            quote(statement)
        psql(self.stack, "BEGIN;" + ";".join(_HARM_ROWS) + ";COMMIT;")
        for line in _HARM_FILES.split(" && ")[1:]:
            quote(line)
        self.stack.compose("exec", "-T", "web1", "sh", "-c", _HARM_FILES)
        harm = compare(self.whole, look(self.stack))
        self.claims.check(bool(harm.dropped) and harm.removed > 0, damage_told(harm))

    def _restore(self) -> None:
        began = time.monotonic()
        code = self.stack.backup("restore", str(self.backup.get("id")), "--force")
        taken = time.monotonic() - began
        self.claims.check(code == 0, f"the restore succeeded after {taken:.1f} s")

    def _compare(self) -> None:
        now = look(self.stack)
        left = compare(self.whole, now)
        tables = f"all {len(self.whole.tables)} tables are as they were: {now.rows:,} rows, equal by a hash of each"
        self.claims.check(not left.changed_tables, tables)
        files = f"all {len(self.whole.files)} files are there, equal by SHA-256, and no others"
        self.claims.check(not (left.removed or left.changed or left.added), files)
        if left:
            say(damage_told(left))
        self.claims.check(self._healthy(), "the application answers again, after `migrate` and `check` have run in it")

    def _moment(self) -> None:
        """What no backup holds comes back, because the sidecar receives what the server writes to its log."""
        quote(_ENTERED)
        psql(self.stack, _ENTERED)
        entered = look(self.stack)
        moment = self._second()
        for statement in _DELETED.split("; "):
            quote(statement)
        psql(self.stack, _DELETED)
        harm = compare(entered, look(self.stack))
        self.claims.check(harm.rows > 0, f"{damage_told(harm)}; the case of {moment} is in no backup")
        code = self.stack.backup("restore", "--at", moment, "--force")
        self.claims.check(
            code == 0 and not compare(entered, look(self.stack)),
            f"all is as it was at {moment}: what was entered is there, and nothing else is lost",
        )

    def _second(self) -> str:
        """A second that all before it has been committed in, and nothing behind it yet; by the sidecar's clock."""
        time.sleep(1.1)
        moment = self.stack.compose("exec", "-T", "backup", "date", "+%Y-%m-%d %H:%M:%S").strip()
        time.sleep(1.1)
        return moment

    def _watched(self) -> None:
        """The restored state is backed up, too, its files at no cost; the status page, and a message that arrives."""
        began = time.monotonic()
        code = self.stack.backup("create", "manual")
        taken, found = time.monotonic() - began, self.stack.answer("list", "manual")["sets"][0]
        small = found["size_bytes"] * 10 < self.backup["size_bytes"]
        told = (
            f"the next set took {taken:.1f} s and {found['size_bytes'] / 1000:,.0f} kB: files that it has cost nothing"
        )
        self.claims.check(code == 0 and small, told)
        code = self.stack.backup("notify", "--test")
        caught = json.loads(self.stack.page("mail", "/api/messages") or "[]")
        subjects = ", ".join(f"“{mail['subject']}”" for mail in caught)
        self.claims.check(code == 0 and bool(caught), f"its mail arrives: {subjects or 'nothing did'}")
        page = self.stack.page("page")
        self.claims.check(str(self.backup.get("id")) in page and "Healthy" in page, "the status page says “Healthy”")

    def _offsite(self) -> None:
        self.claims.check(self._bucket(120), "the object store answers, and there is a bucket")
        self.claims.check(
            self.stack.backup("upload", "--all") == 0, "all sets were sent, sizes and checksums read back"
        )
        self.stack.backup("offsite", "list")
        code = self.stack.backup("drill", "s3:latest")
        self.claims.check(code == 0, "the newest copy was fetched and is proven, with nothing but the bucket")

    def _bucket(self, seconds: float) -> bool:
        """The bucket, made as its owner would: by no part of the sidecar, but by the library in its image."""
        path = "from botocore.config import Config; where = Config(s3={'addressing_style': 'path'})"
        client = "import boto3; s3 = boto3.client('s3', region_name='us-east-1', config=where)"
        made = f"{path}; {client}; s3.create_bucket(Bucket='obcms-demo')"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.stack.compose("exec", "-T", "backup", "/app/venv/bin/python", "-c", made)
                return True
            except Failure:
                time.sleep(2)
        return False

    def _end(self, seconds: float) -> None:
        title("What happened")
        failed = self.claims.failed
        for claim in failed:
            print(styled(f"   FAILED: {claim}", "red"))
        if failed:
            say(f"After {seconds:.0f} s {len(failed)} of {self.claims.count} claims are not true; the stack stays.")
            for line in self.stack.compose("ps", "-a", "--format", "table {{.Service}}\t{{.Status}}").splitlines():
                quote(line)
            self.stack.backup("status")
        else:
            say(f"In {seconds:.0f} s an application was backed up, that was proven, data damaged, and restored.")
            say(f"All {self.claims.count} claims above were checked by psql, sha256sum and HTTP, and are true.")
        title("Look around")
        print(f"   status page   {self.stack.url('page')}")
        print(f"   application   {self.stack.url('app')}")
        print(f"   mail          {self.stack.url('mail')}")
        prefix = "" if self.stack.project == "obcms-demo" else f"DEMO_PROJECT={self.stack.project} "
        undo = f"{prefix}demo/run backup undo"
        print(f"   undo          {undo}      brings the last damage back; once more, and it is gone again")
        print(f"   commands      {prefix}demo/run backup --help")
        print(f"   the end       {prefix}make demo-down", flush=True)


def damage_told(harm: Difference) -> str:
    """A difference in words."""
    counts = [
        (harm.rows, "row", "missing"),
        (len(harm.changed_tables), "table", "changed"),
        (harm.removed, "file", "missing"),
        (harm.changed, "file", "changed"),
        (harm.added, "file", "new"),
    ]
    parts = [f"{count:,} {noun}{'s' if count > 1 else ''} {state}" for count, noun, state in counts if count]
    parts += [f"table {name} gone" for name in harm.dropped]
    return ", ".join(parts) or "nothing differs"


def main(project: str, with_s3: bool) -> bool:
    """Prepare, and tell it from the start; whether all is true."""
    title("OBCMS backup: a demonstration")
    with step(1, "What is missing on this machine is prepared"):
        prepare.engine()
        stack = Stack(project, dict.fromkeys(prepare.PORTS, 0), with_s3)
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")  # an earlier demonstration
        stack = Stack(project, prepare.ports(), with_s3)
        prepare.images(stack)
    return Story(stack).tell()
