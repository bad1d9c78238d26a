"""What the demonstration needs and the machine may lack: an engine, free ports, images."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

from demo.show.screen import Failure, say
from demo.show.stack import ROOT, Stack

PORTS = {"page": 8080, "app": 8000, "mail": 8025}


def ports() -> dict[str, int]:
    """A port for each address: the one asked for by NAME_PORT, or the first free one from the default on."""
    chosen: dict[str, int] = {}
    for name, default in PORTS.items():
        variable = f"{name.upper()}_PORT"
        wanted = os.environ.get(variable, "")
        if wanted and not (wanted.isdigit() and _free(int(wanted))):
            raise Failure(f"{variable}={wanted}: that port cannot be opened on 127.0.0.1. Choose another.")
        taken = set(chosen.values())
        candidates = (port for port in range(default, default + 100) if port not in taken and _free(port))
        port = int(wanted) if wanted else next(candidates, 0)
        if not port:
            raise Failure(f"no port from {default} to {default + 99} is free on 127.0.0.1. Choose one by {variable}=.")
        if port != default and not wanted:
            say(f"Port {default} is in use on this machine; {variable} is {port}.")
        chosen[name] = port
    return chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # Else a connection of an earlier demonstration that lingers would count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def engine() -> None:
    """An engine that answers, and the base images."""
    say(run("tools/engine", progress=True) + ".")


def images(stack: Stack) -> None:
    """The images of database, application and sidecar, built beside each other if they are not there."""
    wanted = [stack.app_image, stack.postgres_image, stack.backup_image, *([stack.s3_image] if stack.s3 else [])]
    if not all(_exists(name) for name in wanted):
        say("Images are built; the first time that takes a minute or two.")
    with ThreadPoolExecutor() as pool:
        building = [pool.submit(build, stack) for build in (_test_images, _application, _sidecar)]
    for one in building:
        say(one.result())


def _test_images(stack: Stack) -> str:
    """The tests' images under names of the demo's own, one after the other: their builder works on one at a time."""
    _borrowed("postgres:17", stack.postgres_image)
    if not stack.s3:
        return f"{stack.postgres_image} is the database."
    _borrowed("ceph:20", stack.s3_image)
    return f"{stack.postgres_image} is the database, {stack.s3_image} the object store."


def _borrowed(name: str, ours: str) -> None:
    """A tests' name that was not there is not left behind."""
    theirs = f"obcms-test/{name}"
    there = _exists(theirs)
    if not there and _exists(ours):
        run("docker", "tag", ours, theirs)
    run("tools/test-images", name)
    run("docker", "tag", theirs, ours)
    if not there:
        run("docker", "image", "rm", theirs)


def _application(stack: Stack) -> str:
    builder = run("docker", "context", "show")
    options = (
        "--load",
        "--tag",
        stack.app_image,
        "--build-arg",
        f"DEMO={stack.project}",
        "--file",
        "demo/app/Dockerfile",
    )
    run("docker", "buildx", "build", "--builder", builder, "--progress", "plain", *options, "demo")
    return f"{stack.app_image} is the application."


def _sidecar(stack: Stack) -> str:
    if not os.environ.get("OBCMS_BACKUP_IMAGE"):
        run("tools/build", environment={"IMAGE": stack.backup_image})
    elif not _exists(stack.backup_image):
        raise Failure(f"there is no image OBCMS_BACKUP_IMAGE={stack.backup_image}. Unset it, and one is built.")
    return f"{stack.backup_image} is the sidecar."


def remove(stack: Stack) -> list[str]:
    """Remove what was made for this project, if there is an engine at all; what that was."""
    marked = ("image", "ls", "--quiet", "--no-trunc", "--filter", f"label=obcms.demo={stack.project}")
    removed = []
    for kind, listing in (
        ("container", ("ps", "-aq")),
        ("volume", ("volume", "ls", "-q")),
        ("network", ("network", "ls", "-q")),
    ):
        found = run("docker", *listing, "--filter", f"label=com.docker.compose.project={stack.project}").split()
        removed += [f"{len(found)} {kind}{'s' if len(found) != 1 else ''}"] if found else []
    stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
    names = [stack.app_image, stack.postgres_image, stack.s3_image, f"{stack.project}/backup:latest"]
    images = [name for name in names if _exists(name)]
    if images:
        run("docker", "image", "rm", *images)
    # Earlier builds of the application, which a later one has left without a name.
    for image in set(run("docker", *marked).split()):
        run("docker", "image", "rm", image)
    return removed + images


def run(*words: str, environment: dict[str, str] | None = None, progress: bool = False) -> str:
    """Run a program of this machine; its standard output. What else it says is shown if it fails, or at once."""
    done = subprocess.run(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False,
        stderr=None if progress else subprocess.PIPE, env=dict(os.environ) | (environment or {}),
    )  # fmt: skip
    if done.returncode:
        tail = "\n".join((done.stdout + (done.stderr or "")).strip().splitlines()[-15:])
        raise Failure(f"`{' '.join(words)}` ended with {done.returncode}:\n{tail}")
    return done.stdout.strip()


def _exists(image: str) -> bool:
    inspected = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    return inspected.returncode == 0
