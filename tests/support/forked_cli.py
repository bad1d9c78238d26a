"""Commands of the product without the second that each takes to import what all of them import.

One process per test worker has imported everything and waits; each command is a fork of it, with the environment,
directory and output that it was asked for; strace is attached to it before it begins. What starts a command under
another program (docker, mount name spaces) does without.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import typer

import backup

ROOT = Path(__file__).resolve().parents[2]
_MOST = 1 << 20
# Of one request: where to send the news, stdin, stdout, stderr.
_ENDS = 4


def around() -> dict[str, str]:
    """What a process of the product has of this machine's environment."""
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    return passed | {"PYTHONPATH": str(ROOT)}


class Forked(subprocess.Popen[str]):
    """A command as `Popen` starts it. Without `ends`, its stdout and stderr are one pipe, read as text.

    `ends` are descriptors that become its stdin, stdout and stderr. `held`: it stands still until it gets SIGCONT.
    """

    def __init__(
        self,
        words: list[str],
        environment: dict[str, str],
        ends: tuple[int, int, int] | None = None,
        *,
        held: bool = False,
    ) -> None:
        # Each of the two words on its own: a command may have ended before the first is read.
        self._news, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stdin = self.stderr = self.stdout = None
        writing = -1
        if ends is None:
            reading, writing = os.pipe()
            self.stdout = open(reading, encoding="utf-8")
        with theirs, open(os.devnull, "rb") as nothing:
            wanted = {"words": words, "environment": environment, "folder": str(Path.cwd()), "held": held}
            request = json.dumps(wanted).encode()
            assert len(request) < _MOST
            _ask(request, [theirs.fileno(), *(ends or (nothing.fileno(), writing, writing))])
        if ends is None:
            os.close(writing)
        self.args = words
        self.returncode: Any = None
        self.text_mode: Any = True
        self.encoding, self.errors = "utf-8", None
        self._communication_started, self._input, self._child_created = False, None, True
        self._waitpid_lock, self._sigint_wait_secs = threading.Lock(), 0.25
        self.pid = int(self._news.recv(32))

    def _internal_poll(self, *_: Any, **__: Any) -> Any:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> Any:
        with self._waitpid_lock:
            if self.returncode is None:
                if not select.select([self._news], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                said = self._news.recv(32)
                assert said, "the process that all commands are forks of has gone"
                self.returncode = int(said)
                self._news.close()
        return self.returncode


class Traced(Forked):
    """A command under strace from its first call on; it has not ended before all is in strace's log."""

    _tracer: subprocess.Popen[bytes] | None = None

    def __init__(self, strace: Sequence[str], words: list[str], environment: dict[str, str]) -> None:
        super().__init__(words, environment, held=True)
        try:
            self._until("State", "T", "t")
            self._tracer = subprocess.Popen([*strace, f"--attach={self.pid}"], stdin=subprocess.DEVNULL)
            self._until("TracerPid", str(self._tracer.pid))
        except BaseException:
            self.kill()
            raise
        os.kill(self.pid, signal.SIGCONT)

    def _until(self, field: str, *values: str) -> None:
        """Wait for one of these words of the kernel about the process."""
        deadline = time.monotonic() + 60
        while Path(f"/proc/{self.pid}/status").read_text().split(f"{field}:")[1].split()[0] not in values:
            assert time.monotonic() < deadline, f"{field} does not become {values}"
            time.sleep(0.002)

    def _wait(self, timeout: float | None) -> Any:
        code = super()._wait(timeout)
        if self._tracer:
            self._tracer.wait()
        return code


def apart(words: list[str], environment: dict[str, str], stdin: bytes, timeout: float) -> tuple[int, bytes, bytes]:
    """(exit code, stdout, stderr) of a command, which is killed after `timeout` seconds: TimeoutExpired."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        with Forked(words, environment, (given.fileno(), output.fileno(), errors.fileno())) as process:
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        output.seek(0)
        errors.seek(0)
        return code, output.read(), errors.read()


_mother: tuple[int, socket.socket] | None = None


def _ask(request: bytes, descriptors: list[int]) -> None:
    global _mother
    if _mother is None or _mother[0] != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MOST)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            env=around(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        _mother = (os.getpid(), ours)
        atexit.register(process.wait, 10)
        atexit.register(ours.close)
    with_rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    _mother[1].sendmsg([request], with_rights)


def _import_rest() -> None:
    """What commands import, make or look for when they need it, which each fork would do again."""
    for found in pkgutil.walk_packages(backup.__path__, "backup."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    models = pydantic.BaseModel.__subclasses__()
    for model in models:
        models += model.__subclasses__()
        model.model_rebuild()  # does nothing where it was done
    # loguru asks for all folders of libraries, whenever it is told where to write.
    vars(sysconfig)["get_path"] = functools.cache(sysconfig.get_path)
    for scheme, name in itertools.product(sysconfig.get_scheme_names(), sysconfig.get_path_names()):
        sysconfig.get_path(name, scheme)


def _serve(asked: socket.socket) -> dict[str, Any]:
    """Fork for each request, and tell how each ended; returns what is to be run, in each fork."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor that can be read when the process has ended
    while True:
        for ready in select.select([asked.fileno(), *running], [], [])[0]:
            if ready != asked.fileno():
                _tell(*running.pop(ready))
                os.close(ready)
                continue
            request, rights, _, _ = asked.recvmsg(_MOST, socket.CMSG_SPACE(_ENDS * array.array("i").itemsize))
            if not request:
                os._exit(0)  # the test worker has ended
            news, *ends = array.array("i", rights[0][2])
            pid = os.fork()
            if not pid:
                for number, end in enumerate(ends):
                    os.dup2(end, number)
                for each in (news, *ends, *running):
                    os.close(each)
                for open_one in (asked, *(teller for _, teller in running.values())):
                    open_one.close()
                return dict(json.loads(request))
            for end in ends:
                os.close(end)
            teller = socket.socket(fileno=news)
            teller.send(str(pid).encode())
            running[os.pidfd_open(pid)] = pid, teller


def _tell(pid: int, news: socket.socket) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError), news:  # nobody may be waiting any more
        news.send(str(status).encode())


def _become(wanted: dict[str, Any]) -> None:
    if wanted["held"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    time.tzset()
    os.chdir(wanted["folder"])
    sys.argv = wanted["words"]
    program = Path(sys.argv[0])
    sys.path.insert(0, str(program.parent))
    exec(compile(program.read_text(), program, "exec"), {"__name__": "__main__", "__file__": str(program)})  # noqa: S102


def _exit(code: Any) -> None:
    """As the interpreter ends, but without taking apart what all forks share."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cli = importlib.import_module("backup.cli")
    commands: Any = typer.main.get_command(cli.app)
    list(commands.commands.values())  # which imports each of them
    _import_rest()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        todo = _serve(control)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _become(todo)
        _exit(0)
    except SystemExit as end:
        _exit(end.code)
