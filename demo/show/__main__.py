"""demo/run: tells the story, hands words to the sidecar, or removes everything."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.show import prepare, story
from demo.show.screen import Failure, styled
from demo.show.stack import Stack

USAGE = """\
usage: demo/run up [--s3]        tell the story from the start; what an earlier one left is removed
       demo/run backup WORDS...  a command of the sidecar, such as: demo/run backup status
       demo/run down             remove everything"""


def main(words: list[str]) -> int:
    """Run one command line; its exit code."""
    try:
        project = _project()
        match words:
            case ["backup", *rest]:
                return _sidecar(Stack(project), rest)
            case ["up", *rest] if rest in ([], ["--s3"]):
                with _alone(project):
                    return 0 if story.main(project, bool(rest)) else 1
            case ["down"]:
                with _alone(project):
                    return _down(Stack(project))
        print(USAGE, file=sys.stderr)
    except Failure as failure:
        print(styled(f"demo: {failure}", "red"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped. `make demo-down` removes what was made so far.", file=sys.stderr)
        return 130
    return 0 if words in (["-h"], ["--help"]) else 2


def _project() -> str:
    name = os.environ.get("DEMO_PROJECT") or "obcms-demo"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise Failure(f"DEMO_PROJECT={name!r}: only lower case letters, digits and single hyphens, please.")
    return name


@contextmanager
def _alone(project: str) -> Iterator[None]:
    """No second one at the same time: it would pull the stack from under the first."""
    with open(Path(tempfile.gettempdir()) / f"{project}-{os.getuid()}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{project} is running in another terminal; wait until it has ended.") from None
        yield


def _sidecar(stack: Stack, words: list[str]) -> int:
    """A command in the running service, with this terminal if there is one. Failure if it does not run."""
    if not stack.compose("ps", "-q", "--status", "running", "backup").strip():
        raise Failure(f"the sidecar of {stack.project} does not run. `make demo` starts the demonstration again.")
    terminal = [] if sys.stdin.isatty() and sys.stdout.isatty() else ["-T"]
    argv = stack.command("exec", *terminal, "backup", "backup", *words)
    return subprocess.run(argv, env=stack.environment(), check=False).returncode


def _down(stack: Stack) -> int:
    if not shutil.which("docker"):
        print("demo: nothing was there")
        return 0
    removed = prepare.remove(stack)
    print(f"demo: removed {', '.join(removed)}" if removed else "demo: nothing was there")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
