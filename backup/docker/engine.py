"""The only package that speaks to a Docker engine.

Finds the sidecar's own container and the database's, and runs helpers: short-lived containers, labelled as ours,
with nothing but a pipe to write into.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import posixpath
import re
import socket
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import docker
from docker.errors import APIError
from docker.types import Mount

from backup.docker.container import PROJECT, SERVICE_LABEL, Container, described, listing, mount_source
from backup.docker.helper import Helper
from backup.docker.translate_errors import NO_ENGINE, Gone, engine_errors
from backup.errors import ConfigError, DatabaseNotYet, EngineError
from backup.formatting import printable

SpoolMount = Mount

LABEL: Final = "obcms.backup.instance"
LABEL_RUN: Final = "obcms.backup.run"
LABEL_ROLE: Final = "obcms.backup.role"
LABEL_RECEIVER: Final = "obcms.backup.receiver"
_ONEOFF: Final = "com.docker.compose.oneoff"
_VOLUME: Final = "com.docker.compose.volume"
_NETWORK: Final = "com.docker.compose.network"
_OWN_ID: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")
_SMALL_FILE: Final = 4096
_LINKS: Final = 8
_DIGEST: Final = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_TRIES: Final = 3
_ROOM: Final = re.compile(r"(\d+) (\d+) ([0-9a-f]{1,16})")


# Short for the first word, so that a socket nobody serves is noticed; long for what really takes long. Seconds.
_FIRST_WORD: Final = 10
_PATIENCE: Final = 60
# The first version of its interface with which a folder of a volume can be mounted.
_SUBPATHS: Final = (1, 45)
_OWN: Final[dict[docker.APIClient, Container | None]] = {}


@functools.cache
def _client(url: str) -> docker.APIClient:
    """One for all: each new one asks for the version anew."""
    client = docker.APIClient(base_url=url, version="auto", timeout=_FIRST_WORD)
    client.timeout = _PATIENCE
    # Else the settings of a proxy, which a socket has none of, are looked up for every request.
    client.trust_env = not url.startswith("unix:")
    return client


class Engine:
    """A Docker engine that answers. EngineError says what it refused and what to do."""

    def __init__(self) -> None:
        self.url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        with engine_errors(f"the Docker engine at {self.url}", NO_ENGINE):
            self.api = _client(self.url)
            self.api.get(f"{self.api.base_url}/_ping", timeout=_FIRST_WORD).raise_for_status()

    def version(self) -> str:
        """The engine's version."""
        with engine_errors("the engine's version"):
            return str(self.api.version()["Version"])

    def own(self) -> Container | None:
        """The container this process runs in; None outside of one."""
        if self.api not in _OWN:
            _OWN[self.api] = self._find_own()
        return _OWN[self.api]

    def _find_own(self) -> Container | None:
        for identifier in _own_ids():
            with contextlib.suppress(Gone):
                return self._inspect(identifier)
        return None

    def database(self, name: str, project: str) -> Container:
        """The one running container of service (or name, or alias) `name`; clear errors for none and for several."""
        found = self._answering(name, project)
        running = [c for c in found if c.running]
        # Without a project, a stopped container may be the one that is meant.
        if len(running) == 1 and (project or len(found) == 1):
            return _awake(running[0])
        where = f"project {printable(project)}" if project else "this engine"
        if running:
            raise ConfigError(
                f"{len(found)} containers match {printable(name)!r} in {where}:{listing(found)}",
                "Set DB_HOST to the name of the one to back up"
                + (", or BACKUP_PROJECT to its Compose project." if not project else "."),
            )
        if found:
            raise DatabaseNotYet(
                f"the database container is not running:{listing(found)}\nNothing was changed",
                f"Start it: docker compose up -d {printable(name)}",
            )
        likely = [c for c in self.containers(project) if "POSTGRES_PASSWORD" in c.environment or "postgres" in c.image]
        raise ConfigError(
            f"no container of service {printable(name)!r} in {where}; likely databases:{listing(likely)}",
            "Set DB_SERVICE to the database's service, or DB_HOST to a server outside of this engine.",
        )

    def has(self, name: str, project: str) -> bool:
        """Whether any container, running or not, answers to `name` in the project."""
        return bool(self._answering(name, project))

    def _answering(self, name: str, project: str) -> list[Container]:
        """Who answers to `name`: a service or container of that name, else an alias, for which all are looked at."""
        listed = self._listed(project)
        named = [
            e for e in listed if name == (e["Labels"] or {}).get(SERVICE_LABEL) or f"/{name}" in (e["Names"] or ())
        ]
        return self._inspected(named) or [c for c in self._inspected(listed) if name in c.aliases]

    def image(self, name: str) -> str:
        """The id of an image that is here, by its id or name; empty for one that is not."""
        try:
            with engine_errors(f"the image {printable(name)}"):
                return str(self.api.inspect_image(name)["Id"]) if name else ""
        except Gone:
            return ""

    def read_file(self, container: Container, path: str) -> str:
        """Read a small text file inside a container (a secret of the database's), less its final newline."""
        what = f"{printable(path)} in {printable(container.name)}"
        for _ in range(_LINKS):
            with engine_errors(what):
                stream, _ = self.api.get_archive(container.id, path)
                data = b"".join(_bounded(stream, _SMALL_FILE * 8))
            try:
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    member = archive.getmembers()[0]
                    if member.issym():  # as Kubernetes has its secrets
                        path = posixpath.join(posixpath.dirname(path), member.linkname)
                        continue
                    file = archive.extractfile(member)
                    return file.read(_SMALL_FILE).decode().removesuffix("\n") if file else ""
            except (tarfile.TarError, UnicodeDecodeError) as error:
                raise EngineError(f"{what} is not text, or was truncated: {printable(str(error))}") from None
        raise EngineError(f"{what} is a broken link")

    def start_helper(
        self, beside: Container, program: str, arguments: Sequence[str], spool: SpoolMount, labels: Mapping[str, str]
    ) -> Helper:
        """Start `program` in a container of the image of `beside`, in its network namespace."""
        with engine_errors(f"starting {program} beside {printable(beside.name)}"):
            return Helper.start(
                self.api,
                beside.image_id,
                [program, *arguments],
                labels,
                network_mode=f"container:{beside.id}",
                mounts=[spool],
            )

    def start_receiver(
        self, beside: Container, program: str, arguments: Sequence[str], mounts: Sequence[SpoolMount], instance: str
    ) -> Helper:
        """Start `program` as `start_helper` does, to run for as long as `beside`: no sweep of dead runs removes it."""
        with engine_errors(f"starting {program} beside {printable(beside.name)}"):
            return Helper.start(
                self.api,
                beside.image_id,
                [program, *arguments],
                {LABEL_RECEIVER: instance},
                network_mode=f"container:{beside.id}",
                mounts=list(mounts),
                # The database on the same machine comes first.
                cpu_shares=256,
                mem_limit="256m",
            )

    def sweep_receivers(self, instance: str) -> None:
        """Remove the receivers of this instance: of each there is to be one, and whoever starts it is alone."""
        with engine_errors("leftover receivers"):
            left = self.api.containers(all=True, filters={"label": [f"{LABEL_RECEIVER}={instance}"]})
        for container in left:
            Helper(self.api, container["Id"], "receiver").close()

    def start_alone(
        self,
        image: str,
        command: Sequence[str],
        labels: Mapping[str, str],
        mounts: Sequence[SpoolMount],
        caps: list[str],
    ) -> Helper:
        """Start `command` in a container of `image` with no network, these mounts and capabilities."""
        with engine_errors(f"starting {command[0]}"):
            return Helper.start(
                self.api, image, list(command), labels, network_mode="none", mounts=list(mounts), cap_add=caps
            )

    def free(self, container: Container, path: str, labels: Mapping[str, str]) -> tuple[int, int]:
        """Free bytes of the file system that `path` lies on inside a container, asked in a helper; and its number, as
        `os.statvfs` has it."""
        return self.room(container.image_id, path, labels, volumes_from=[f"{container.id}:ro"])

    def room(self, image: str, path: str, labels: Mapping[str, str], **mounts: Any) -> tuple[int, int]:
        """The same of what a helper of `image` has with these `mounts`."""
        with engine_errors(f"the free space at {printable(path)}"):
            command = ["stat", "-f", "-c", "%a %S %i", "--", path]
            # On a busy machine an engine may have no word of one that has ended well.
            for _ in range(_TRIES):
                helper = Helper.start(self.api, image, command, labels, network_mode="none", **mounts)
                try:
                    code, said = helper.wait(), helper.errors().strip()
                finally:
                    helper.close()
                if code or said:
                    break
        if code or not (words := _ROOM.fullmatch(said)):
            why = printable(said) or f"{command[0]} said nothing, and ended with exit code {code}"
            raise EngineError(f"the free space at {printable(path)} is unknown: {why}")
        number = int(words[3], 16)
        # `stat` writes the halves of the number the other way round.
        return int(words[1]) * int(words[2]), number >> 32 | (number & 0xFFFFFFFF) << 32

    def sweep_helpers(self, instance: str, run: str = "", role: str = "") -> int:
        """Remove what dead runs of `instance` left, or one run (and one role in it). Only for the lock's holder."""
        labels = [f"{LABEL}={instance}"]
        labels += [f"{label}={value}" for label, value in ((LABEL_RUN, run), (LABEL_ROLE, role)) if value]
        with engine_errors("leftover helpers"):
            leftovers = self.api.containers(all=True, filters={"label": labels})
        # Each is tried: one that the engine refuses to remove must not keep the others here.
        with contextlib.ExitStack() as stack:
            for container in leftovers:
                stack.callback(Helper(self.api, container["Id"], "helper").close)
        return len(leftovers)

    def containers(self, project: str, *, oneoff: bool = False) -> list[Container]:
        """The containers of a project, running or not; all of this engine without one.

        `oneoff`: those that `docker compose run` has made, instead of its services'.
        """
        return self._inspected(self._listed(project, oneoff=oneoff))

    def compose_names(self, project: str) -> tuple[dict[str, str], dict[str, str]]:
        """(volumes, networks) that are the project's own: Compose's name by the engine's."""
        with engine_errors("the volumes and networks"):
            volumes = self.api.volumes().get("Volumes") or []
            networks = self.api.networks()
        return _labelled(volumes, _VOLUME, project), _labelled(networks, _NETWORK, project)

    def _listed(self, project: str, *, oneoff: bool = False) -> list[dict[str, Any]]:
        filters = {"label": [f"{_ONEOFF}={oneoff}", f"{PROJECT}={project}"]} if project else {}
        with engine_errors("the list of containers"):
            return list(self.api.containers(all=True, filters=filters))

    def _inspected(self, listed: Sequence[Mapping[str, Any]]) -> list[Container]:
        found = []
        for entry in listed:
            with contextlib.suppress(Gone):  # between the listing and the look
                found.append(self._inspect(entry["Id"]))
        return found

    def _inspect(self, identifier: str) -> Container:
        with engine_errors(f"container {printable(identifier[:12])}"):
            found = described(self.api.inspect_container(identifier))
            return replace(found, image=self._name(found)) if _DIGEST.fullmatch(found.image) else found

    def _name(self, container: Container) -> str:
        """What the image of a container that was made by its id is called."""
        with contextlib.suppress(APIError):
            if tags := self.api.inspect_image(container.image_id).get("RepoTags"):
                return str(tags[0])
        return "an image without a name"


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
            f"the database container {container.shown} is paused; nothing was changed",
            f"Resume it: docker unpause {printable(container.name)}",
        )
    return container


def _labelled(found: Iterable[Mapping[str, Any]], label: str, project: str) -> dict[str, str]:
    labels = [(str(each["Name"]), each.get("Labels") or {}) for each in found]
    return {name: of[label] for name, of in labels if of.get(PROJECT) == project and of.get(label)}


def spool_mount(own: Container | None, local: Path, inside: PurePosixPath, *, writable: bool = False) -> SpoolMount:
    """How a helper mounts the directory that is `local` here: the same volume, or the same host directory.

    Read-only, but for a server that makes its socket there: a pipe can be written to all the same, but a client that
    finds it gone makes no file in its place.
    """
    if own is None:
        return Mount(target=str(inside), source=str(local), type="bind", read_only=not writable)
    if found := _mounted(own, local, str(inside), writable=writable):
        return found
    raise ConfigError(
        f"no volume is mounted at {local}, so helper containers cannot hand over the dump",
        "Mount `backup_spool:/spool` as docker-compose.backup.yml does, or set DB_HOST for the network way.",
    )


def same_mount(own: Container, directory: Path, *, writable: bool) -> SpoolMount:
    """How another container mounts what our own has at `directory` or above it, at the same place."""
    for place in (directory, *directory.parents):
        if found := _mounted(own, place, str(place), writable=writable):
            return found
    raise ConfigError(
        f"nothing is mounted at {directory}", "Mount it in the backup service, as docker-compose.backup.yml does."
    )


def folder_mount(engine: Engine, own: Container | None, folder: Path, target: str) -> SpoolMount:
    """How a helper mounts one folder of ours, and nothing beside it, writable at `target`."""
    if own is None:
        return Mount(target=target, source=str(folder), type="bind")
    if found := _mounted(own, folder, target, writable=True):
        return found
    for place in folder.parents:
        mount = next((each for each in own.mounts if each.get("Destination") == str(place)), None)
        if mount is None:
            continue
        below = str(folder.relative_to(place))
        if mount["Type"] == "bind":
            return Mount(target=target, source=posixpath.join(str(mount["Source"]), below), type="bind")
        require_subpaths(
            engine,
            f"{folder} without the rest of {printable(mount_source(mount))}",
            f"Mount a volume of its own at {folder} in the backup service, such as `obcms_wal:{folder}`; or use Docker"
            " Engine 26 or newer.",
        )
        return Mount(target=target, source=mount_source(mount), type=mount["Type"], subpath=below)
    raise ConfigError(
        f"nothing is mounted at {folder}", "Mount it in the backup service, as docker-compose.backup.yml does."
    )


def require_subpaths(engine: Engine, what: str, hint: str) -> None:
    """ConfigError on an engine that cannot mount one folder of a volume."""
    if tuple(map(int, engine.api.api_version.split("."))) < _SUBPATHS:
        raise ConfigError(f"this Docker engine cannot mount {what}", hint)


def _mounted(own: Container, place: Path, target: str, *, writable: bool) -> SpoolMount | None:
    """What our own container has at exactly `place`, for another one at `target`."""
    for mount in own.mounts:
        if mount.get("Destination") == str(place):
            return Mount(target=target, source=mount_source(mount), type=mount["Type"], read_only=not writable)
    return None


def _own_ids() -> Iterator[str]:
    """Ids under which this process's container may be known; none on a plain host."""
    if not (Path("/.dockerenv").exists() or os.environ.get("container")):
        return
    with contextlib.suppress(OSError):
        if match := _OWN_ID.search(Path("/proc/self/mountinfo").read_text()):
            yield match[1]
    yield socket.gethostname()
