"""A Docker engine of a test's own, which may be killed: beside the one that all other tests share.

Its data, sockets and bridge are its own, it touches no firewall rule, and `remove` leaves nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.support.database import Server
from tests.support.faults import eventually

# Where tools/engine puts the newest one; elsewhere it is a program of the machine.
_UNPACKED = Path("/usr/local/lib/obcms-engine/28.5/usr")
_LOG_TAIL = 2000
_START_SECONDS = 180
# The engine itself looks at 10.85 to 10.87 (tools/engine) and 172.16 to 172.31 (Compose's networks).
_NETWORK = "10.88"
# Its `none` bridge is not enough for a Swarm, which makes bridges of its own, under names that the machine may have.
_SECLUDED = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@dataclass
class Engine:
    """One dockerd. `env` is what a client of it has in its environment.

    One without a bridge is in a network namespace of its own: no address of the machine leads into its containers.
    """

    root: Path
    bridge: str = "none"
    network: str = ""
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, *, secluded: bool = False) -> Engine:
        """An engine with nothing in it, not started. Its path is short, because sockets' paths must be."""
        root = Path(tempfile.mkdtemp(prefix="obcms-engine-"))
        if secluded:
            return cls(root)
        number = _free_number()
        made = cls(root, f"obk{os.getpid()}", f"{_NETWORK}.{number}")
        _run("ip", "link", "add", "name", made.bridge, "type", "bridge")
        _run("ip", "address", "add", f"{made.network}.1/24", "dev", made.bridge)
        _run("ip", "link", "set", made.bridge, "up")
        return made

    @property
    def url(self) -> str:
        return f"unix://{self.root}/docker.sock"

    @property
    def env(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.url}

    def docker(self, *words: str, check: bool = True) -> str:
        """The engine's own command line, on this engine."""
        done = subprocess.run(
            ["docker", *words], env=os.environ | self.env, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    # --- life and death ------------------------------------------------------------------------------------------

    def start(self, *, live_restore: bool = False) -> None:
        """Start it, also over what a killed one left; `live_restore`: containers outlive it and are taken on again."""
        assert self.process is None
        # The number of a killed one may be another process's by now, or one that nobody has reaped: that is waited for.
        for stale in ("docker.pid", "docker.sock", "exec/containerd/containerd.pid"):
            (self.root / stale).unlink(missing_ok=True)
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(live_restore),
                env=os.environ | {"PATH": f"{_UNPACKED}/bin:{_UNPACKED}/sbin:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self.answers, _START_SECONDS, 0.1)

    def _command(self, live_restore: bool) -> list[str]:
        init = _UNPACKED / "bin" / "docker-init"
        return [
            *([] if self.network else _SECLUDED),
            shutil.which("dockerd", path=f"{_UNPACKED}/sbin:{os.environ['PATH']}") or "dockerd",
            f"--host={self.url}",
            f"--data-root={self.root}/data",
            f"--exec-root={self.root}/exec",
            f"--pidfile={self.root}/docker.pid",
            f"--bridge={self.bridge}",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--userland-proxy=false",
            "--group=root",
            *([f"--init-path={init}"] if init.exists() else []),
            *(["--live-restore"] if live_restore else []),
        ]

    def answers(self) -> bool:
        """Whether it answers; an engine that has ended tells why."""
        if self.process and self.process.poll() is not None:
            raise AssertionError((self.root / "log").read_text()[-_LOG_TAIL:])
        return bool(self.docker("version", "--format={{.Server.Version}}", check=False))

    def kill(self) -> None:
        """As `kill -9` of dockerd: its containerd goes with it, its containers stay until it is started again."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)
        self.killed()

    def killed(self) -> None:
        """Wait for the end of one that has been killed, by us or by somebody else."""
        assert self.process
        self.process.wait(30)
        self.process = None
        eventually(lambda: not self.processes("containerd"), 30)

    def kill_containerd(self) -> None:
        """As `kill -9` of containerd alone: dockerd starts another one."""
        (number,) = self.processes("containerd")
        os.kill(number, signal.SIGKILL)

    def power_cut(self) -> None:
        """Everything is gone at once: the engine, its containers, and what looks after them."""
        containers: set[str] = set()

        def cut() -> bool:
            # Again and again: what was being started in this moment is not among those that were listed.
            containers.update(self._containers())
            left = [*_within(containers), *self.processes()]
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            return not left

        cut()
        if self.process:
            self.killed()
        eventually(cut, 60)
        self._unmount("exec")
        shutil.rmtree(self.root / "exec", ignore_errors=True)
        for name in containers:
            _remove_groups(name)

    # --- what is in it -------------------------------------------------------------------------------------------

    def take(self, *images: str) -> None:
        """Bring images in from the shared engine, under the same names and ids."""
        # In one stream: what they have in common is in it once.
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            subprocess.run(
                ["docker", "load", "--quiet"],
                stdin=saved.stdout,
                env=os.environ | self.env,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        assert saved.returncode == 0, f"{' or '.join(images)} is not in the shared engine"

    def processes(self, name: str = "") -> list[int]:
        """Its processes on the machine, containers' own aside, by the names of their programs."""
        found = []
        for number, words in _commands():
            if words and str(self.root) in " ".join(words) and (not name or Path(words[0]).name == name):
                found.append(number)
        return found

    def _containers(self) -> set[str]:
        folder = self.root / "data" / "containers"
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def remove(self) -> None:
        """Take all of it off the machine."""
        self.power_cut()
        self._unmount("")
        shutil.rmtree(self.root)
        if self.network:
            _run("ip", "link", "delete", self.bridge)

    def _unmount(self, below: str) -> None:
        prefix = str(self.root / below)
        points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for point in sorted((point for point in points if point.startswith(prefix)), reverse=True):
            subprocess.run(["umount", "-l", point], check=False)


@contextlib.contextmanager
def engine(*images: str, secluded: bool = False) -> Iterator[Engine]:
    """A running engine with these images; `secluded`: in a network namespace of its own."""
    made = Engine.make(secluded=secluded)
    try:
        made.start()
        made.take(*images)
        yield made
    finally:
        made.remove()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _within(containers: set[str]) -> list[int]:
    """The processes inside of these containers, found by their control groups."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            ended = not path.with_name("cmdline").read_bytes()
            if not ended and containers & set(re.findall(r"[0-9a-f]{64}", path.read_text())):
                found.append(int(path.parent.name))
    return found


def _remove_groups(container: str) -> None:
    """The control groups of a container that is gone, which nobody else looks after."""
    groups = Path("/sys/fs/cgroup")
    for pattern in (f"docker/{container}", f"*/docker/{container}"):
        for path in groups.glob(pattern):
            for inner in sorted((each for each in path.rglob("*") if each.is_dir()), reverse=True):
                eventually(partial(_removed, inner))
            eventually(partial(_removed, path))


def _removed(group: Path) -> bool:
    """False while a process in it has ended and is not reaped yet."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def _free_number() -> int:
    """The third number of a network that no interface of this machine has."""
    listed = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True)
    used = {int(number) for number in re.findall(rf" {re.escape(_NETWORK)}\.(\d+)\.", listed.stdout)}
    first = os.getpid() % 250
    return next(number for number in [*range(first, 250), *range(first)] if number not in used)


def _commands() -> Iterator[tuple[int, list[str]]]:
    """Every process with its arguments; those that have ended and are not waited for have none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes().decode(errors="replace").split("\0")[:-1]


# `live`: with --live-restore, containers go on while it is away. Else it ends them when it is started again.
KILLS: Final[dict[str, Callable[[Engine], None]]] = {
    "engine": Engine.kill,
    "live": Engine.kill,
    "containerd": Engine.kill_containerd,
    "power": Engine.power_cut,
}


def well(doomed: Engine, victim: Server, way: str = "") -> None:
    """The engine is there again, and what an operator looks to first: the database."""
    if doomed.process is None:
        doomed.start(live_restore=way == "live")
    eventually(lambda: doomed.docker("start", victim.container.id, check=False), 60)
    victim.wait()
