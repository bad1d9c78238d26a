"""A restore that is broken at a step of its journal, beside an application that has its files open."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.support.database import LABEL, PROJECT
from tests.support.faults import docker, ended, eventually, under_way
from tests.support.restoring import Target, drop_kept
from tests.support.sidecar import IMAGE, Result, Sidecar

# Each breaks one thing of the product at one moment, from outside of it: its steps are where it can be broken.
BREAKER = """
import os, pathlib, signal, subprocess, sys
from backup.app import restore
from backup.cli import main
from backup.catalog.catalog import Catalog
from backup.operations.restore.journal import JournalFile
from backup.media import helper
step, verb = os.environ.get("BREAK_STEP"), os.environ.get("BREAK_VERB")
command, dump = os.environ.get("BREAK_COMMAND"), os.environ.get("BREAK_DUMP")
write, publish, popen = JournalFile._write, Catalog.publish, subprocess.Popen
def written(self, journal):
    done = write(self, journal)
    if step and journal.step == step and not journal.back:
        if command:
            subprocess.run(command, shell=True, check=True)
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return done
def published(self, manifest, staged, packs=()):
    publish(self, manifest, staged, packs)
    path = self.root / manifest.tier / manifest.artifact("database").file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
def started(words, **options):
    process = popen(words, **options)
    if verb in words:
        process.kill()
    return process
JournalFile._write = written
if dump:
    Catalog.publish = published
if verb:
    helper.subprocess.Popen, restore.in_child = started, helper.in_child
sys.exit(main(sys.argv[1:]))
"""


def with_application(made: Target, *options: str) -> Iterator[Target]:
    breaker = made.sidecar.root.parent / "breaker.py"
    breaker.write_text(BREAKER)
    made.sidecar.program = breaker
    labels = {LABEL: PROJECT, "com.docker.compose.project": PROJECT, "com.docker.compose.service": "web1"}
    words = [f"--label={key}={value}" for key, value in (labels | {"com.docker.compose.oneoff": "False"}).items()]
    name = application(made)
    docker("run", "-d", f"--name={name}", *options, *words, f"-v{made.sidecar.media}:/media", "obcms-test/app:latest")
    try:
        yield made
        assert running(made)
    finally:
        docker("rm", "-f", name)
        drop_kept(made)


def application(target: Target) -> str:
    """The name of its container."""
    return f"{PROJECT}-web1-{target.database}"


def running(target: Target) -> bool:
    return docker("inspect", "-f", "{{.State.Running}}", application(target)) == "true"


def boxed(sidecar: Sidecar, program: str, **environment: str) -> Sidecar:
    """The same sidecar as a container with the engine's socket: what it may not write, its helpers must.

    `program` is run there in place of the entrypoint.
    """
    script = sidecar.root.parent / "boxed.py"
    script.write_text(program)
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    mounts = [f"-v{socket}:/var/run/docker.sock", f"-v{sidecar.spool}:{sidecar.spool}", f"-v{script}:/boxed.py:ro"]
    # Over the mount of all volumes, which is writable.
    mounts.append(f"-v{sidecar.media}:{sidecar.media}:ro")
    start = ["--entrypoint=/app/venv/bin/python", "-ePYTHONPATH=/app"]
    return replace(
        sidecar,
        image=IMAGE,
        program=None,
        options=(*mounts, *start),
        words=("/boxed.py",),
        environment=sidecar.environment | environment,
    )


def interrupted(
    sidecar: Sidecar, *words: str, harm: Callable[[subprocess.Popen[str]], None], **environment: str
) -> Result:
    """A command that stands still where it runs its BREAK_COMMAND until `harm` is done, and how it ended then."""
    here, go = (sidecar.spool / name for name in ("here", "go"))
    wait = f"[ -e {go} ] || {{ touch {here}; while [ ! -e {go} ]; do sleep 0.02; done; rm {here}; }}"
    try:
        with under_way(sidecar, *words, BREAK_COMMAND=wait, **environment) as process:
            eventually(lambda: here.exists() or process.poll() is not None, 60)
            harm(process)
            go.touch()
            eventually(lambda: not here.exists(), 60)
            return ended(process, 120)
    finally:
        here.unlink(missing_ok=True)
        go.unlink(missing_ok=True)
