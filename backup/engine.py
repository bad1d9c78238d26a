"""The only module that speaks to a Docker engine.

Finds the sidecar's own container and the database's, and runs helpers: short-lived containers of the database's own
image, labelled as ours, with nothing but a pipe to write into.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.errors import NotFound as NoSuchObject
from docker.types import LogConfig, Mount

from backup.containers import PROJECT, Container, described, listing
from backup.errors import ConfigError, DatabaseNotYet, EngineError
from backup.text import printable

LABEL: Final = "obcms.backup.instance"
LABEL_RUN: Final = "obcms.backup.run"
_ONEOFF: Final = "com.docker.compose.oneoff"
_OWN_ID: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
_STDERR_LINES: Final = 20
_SMALL_FILE: Final = 4096

SpoolMount = Mount


class _Gone(EngineError):
    """The engine knows no such container."""


class Engine:
    """A Docker engine that answers. EngineError says what it refused and what to do."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        with _asking(f"the Docker engine at {self.url}"):
            # Short for the first word, so that a socket nobody serves is noticed; long for what really takes long.
            self._api = docker.APIClient(base_url=self.url, version="auto", timeout=10)
            self._api.ping()
            self._api.timeout = 60

    def version(self) -> str:
        """The engine's version."""
        with _asking("the engine's version"):
            return str(self._api.version()["Version"])

    def own(self) -> Container | None:
        """The container this process runs in; None outside of one."""
        for identifier in _own_ids():
            with contextlib.suppress(_Gone):
                return self._inspect(identifier)
        return None

    def database(self, name: str, project: str) -> Container:
        """The one running container of service (or name, or alias) `name`; clear errors for none and for several."""
        candidates = self._containers(project)
        found = [c for c in candidates if name in (c.service, c.name)] or [c for c in candidates if name in c.aliases]
        running = [c for c in found if c.running]
        # Without a project, a stopped container may be the one that is meant.
        if len(running) == 1 and (project or len(found) == 1):
            return _awake(running[0])
        where = f"project {printable(project)}" if project else "this engine"
        if running:
            raise ConfigError(
                f"{len(found)} containers answer to {printable(name)!r} in {where}:{listing(found)}",
                "Set DB_HOST to the name of the one to back up"
                + (", or BACKUP_PROJECT to its Compose project." if not project else "."),
            )
        if found:
            raise DatabaseNotYet(
                f"the database container is not running:{listing(found)}\nNothing was changed",
                f"Start it: docker compose up -d {printable(name)}",
            )
        likely = [c for c in candidates if "POSTGRES_PASSWORD" in c.environment or "postgres" in c.image]
        raise ConfigError(
            f"no container of service {printable(name)!r} in {where}; likely databases:{listing(likely)}",
            "Set DB_SERVICE to the database's service, or DB_HOST to a server outside of this engine.",
        )

    def has(self, name: str, project: str) -> bool:
        """Whether any container, running or not, answers to `name` in the project."""
        return any(name in (c.service, c.name) or name in c.aliases for c in self._containers(project))

    def read_file(self, container: Container, path: str) -> str:
        """A small text file inside a container (a secret of the database's), less its final newline."""
        with _asking(f"{printable(path)} in {printable(container.name)}"):
            stream, _ = self._api.get_archive(container.id, path)
            data = b"".join(_bounded(stream, _SMALL_FILE * 8))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            return member.read(_SMALL_FILE).decode().removesuffix("\n") if member else ""

    def start_helper(
        self, beside: Container, program: str, arguments: Sequence[str], spool: SpoolMount, labels: Mapping[str, str]
    ) -> Helper:
        """Start `program` in a container of the image of `beside`, in its network namespace."""
        with _asking(f"starting {program} beside {printable(beside.name)}"):
            # The image's declared volumes would otherwise become anonymous ones of every helper.
            declared = (self._api.inspect_image(beside.image_id)["Config"].get("Volumes") or {}).keys()
            created = self._api.create_container(
                image=beside.image_id,
                entrypoint=[program],
                command=list(arguments),
                user="0:0",
                labels=dict(labels),
                healthcheck={"test": ["NONE"]},
                environment={"LC_MESSAGES": "C"},
                host_config=self._api.create_host_config(
                    network_mode=f"container:{beside.id}",
                    mounts=[spool],
                    tmpfs=dict.fromkeys(declared, "size=64k"),
                    read_only=True,
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    pids_limit=64,
                    log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "1"}),
                ),
            )
            helper = Helper(self._api, created["Id"], program)
            try:
                self._api.start(created["Id"])
            except BaseException:
                helper.close()
                raise
            return helper

    def sweep_helpers(self, instance: str, run: str = "") -> int:
        """Remove what dead runs of `instance` left, or one run alone. Only for the holder of the lock."""
        labels = [f"{LABEL}={instance}", *([f"{LABEL_RUN}={run}"] if run else [])]
        with _asking("leftover helpers"):
            leftovers = self._api.containers(all=True, filters={"label": labels})
            for container in leftovers:
                Helper(self._api, container["Id"], "helper").close()
            return len(leftovers)

    def _containers(self, project: str) -> list[Container]:
        filters = {"label": [f"{_ONEOFF}=False", f"{PROJECT}={project}"]} if project else {}
        with _asking("the list of containers"):
            listed = self._api.containers(all=True, filters=filters)
        found = []
        for entry in listed:
            with contextlib.suppress(_Gone):  # between the listing and the look
                found.append(self._inspect(entry["Id"]))
        return found

    def _inspect(self, identifier: str) -> Container:
        with _asking(f"container {printable(identifier[:12])}"):
            return described(self._api.inspect_container(identifier))


class Helper:
    """A started helper container; satisfies `stream.fifo.Process`."""

    def __init__(self, api: Any, identifier: str, program: str) -> None:
        self._api, self._id, self._program = api, identifier, program

    def wait(self) -> int:
        """Block until it has ended; its exit code."""
        with _asking(f"the end of {self._program}"):
            return int(self._api.wait(self._id, timeout=None)["StatusCode"])

    def errors(self) -> str:
        """The last lines of its stderr and stdout (where a container runtime's own errors go)."""
        with contextlib.suppress(APIError, requests.RequestException):
            text: bytes = self._api.logs(self._id, stdout=True, stderr=True, tail=_STDERR_LINES)
            return text.decode(errors="replace")
        return "its messages are lost: the engine no longer has them"

    def kill(self) -> None:
        """End it at once, also when it is paused."""
        with contextlib.suppress(APIError, requests.RequestException):
            self._api.kill(self._id)

    def close(self) -> None:
        """Remove the container and its anonymous volumes."""
        with contextlib.suppress(_Gone), _asking(f"removing the helper of {self._program}"):
            try:
                self._api.remove_container(self._id, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # already being removed
                    raise


def spool_mount(own: Container | None, local: Path, inside: PurePosixPath) -> SpoolMount:
    """How a helper mounts the directory that is `local` here: the same volume, or the same host directory.

    Read-only: a pipe can be written to all the same, but a client that finds it gone makes no file in its place.
    """
    if own is None:
        return Mount(target=str(inside), source=str(local), type="bind", read_only=True)
    for mount in own.mounts:
        if mount.get("Destination") == str(local):
            source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
            return Mount(target=str(inside), source=source, type=mount["Type"], read_only=True)
    raise ConfigError(
        f"no volume is mounted at {local}, so helper containers cannot hand over the dump",
        "Mount `backup_spool:/spool` as docker-compose.backup.yml does, or set DB_HOST for the network way.",
    )


def _own_ids() -> Iterator[str]:
    """Ids under which this process's container may be known; none on a plain host."""
    if not (Path("/.dockerenv").exists() or os.environ.get("container")):
        return
    with contextlib.suppress(OSError):
        if match := _OWN_ID.search(Path("/proc/self/mountinfo").read_text()):
            yield match[1]
    yield socket.gethostname()


def _bounded(stream: Iterator[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for piece in stream:
        total += len(piece)
        if total > limit:
            raise EngineError("the file is too large to be a secret")
        yield piece


def _awake(container: Container) -> Container:
    if container.status == "paused":
        raise DatabaseNotYet(
            f"the database container {container.shown} answers nobody; nothing was changed",
            f"Wake it: docker unpause {printable(container.name)}",
        )
    return container


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn an error of the engine or of the way to it into an EngineError about `what`."""
    try:
        yield
    except ImageNotFound as error:
        raise EngineError(f"{what}: {printable(str(error.explanation))}", "Pull or build the image again.") from error
    except NoSuchObject as error:
        raise _Gone(f"{what}: {printable(str(error.explanation))}") from error
    except APIError as error:
        said = printable(str(error.explanation or error))
        raise EngineError(f"{what}: the Docker engine refused: {said}", _hint(said)) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineError(
            f"{what}: the Docker engine does not answer: {printable(str(error))}",
            "Is /var/run/docker.sock mounted and may this user open it? Without an engine, set DB_HOST, DB_NAME,"
            " DB_USER and DB_PASSWORD for the network way.",
        ) from error


def _hint(said: str) -> str:
    if "executable file not found" in said or "no such file" in said:
        return "The database's image has no such client; set DB_HOST to reach the server over the network instead."
    if "non running container" in said or "is not running" in said:
        return "The database container stopped; see its log, then run this again."
    return ""
