"""A short-lived container of ours, once it is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import requests
from docker.errors import APIError
from docker.types import LogConfig

from backup.docker.translate_errors import Gone, engine_errors

# A query that fails is told in all its lines, behind the line that says why.
_STDERR_LINES: Final = 5000


class Helper:
    """A started container of ours; satisfies `postgres.process_io.Process`."""

    def __init__(self, api: Any, identifier: str, program: str) -> None:
        self._api, self._program = api, program
        self.id = identifier

    @classmethod
    def start(
        cls,
        api: Any,
        image: str,
        command: list[str],
        labels: Mapping[str, str],
        cap_add: list[str] | None = None,
        **host: Any,
    ) -> Helper:
        """Start `command` in a new container of `image` that can do no more than it must; `host` adds to its rights."""
        # The image's declared volumes would otherwise become anonymous ones of every helper.
        declared = (api.inspect_image(image)["Config"].get("Volumes") or {}).keys()
        taken = {mount["Target"] for mount in host.get("mounts", [])}
        if "volumes_from" not in host:
            host["tmpfs"] = dict.fromkeys(declared - taken, "size=64k")
        created = api.create_container(
            image=image,
            entrypoint=command[:1],
            command=command[1:],
            user="0:0",
            labels=dict(labels),
            healthcheck={"test": ["NONE"]},
            environment={"LC_MESSAGES": "C"},
            host_config=api.create_host_config(
                read_only=True,
                cap_drop=["ALL"],
                cap_add=cap_add or [],
                security_opt=["no-new-privileges"],
                pids_limit=64,
                log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "1"}),
                **host,
            ),
        )
        helper = cls(api, created["Id"], command[0])
        try:
            api.start(created["Id"])
        except BaseException:
            helper.close()
            raise
        return helper

    def becomes(self, program: str) -> None:
        """Note that it runs another program from now on, for messages."""
        self._program = program

    def wait(self) -> int:
        """Block until it has ended; its exit code."""
        with engine_errors(f"the end of {self._program}"):
            return int(self._api.wait(self.id, timeout=None)["StatusCode"])

    def running(self) -> bool:
        """Whether it has not ended yet."""
        try:
            with engine_errors(f"the state of {self._program}"):
                return bool(self._api.inspect_container(self.id)["State"].get("Running"))
        except Gone:
            return False

    def stop(self, seconds: int) -> None:
        """Ask it to end, and end it after so many seconds."""
        with contextlib.suppress(APIError, requests.RequestException):
            self._api.stop(self.id, timeout=seconds)

    def errors(self) -> str:
        """The last lines of its stderr and stdout (where a container runtime's own errors go)."""
        with contextlib.suppress(APIError, requests.RequestException):
            text: bytes = self._api.logs(self.id, stdout=True, stderr=True, tail=_STDERR_LINES)
            return text.decode(errors="replace")
        return "its messages are lost: the engine no longer has them"

    def lines(self) -> Iterator[str]:
        """What it writes to stdout, line by line, until it ends. May end early without a word: judge by `wait`."""
        rest = b""
        with contextlib.suppress(APIError, requests.RequestException):
            for piece in self._api.logs(self.id, stdout=True, stderr=False, stream=True, follow=True):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def kill(self) -> None:
        """End it at once, also when it is paused."""
        with contextlib.suppress(APIError, requests.RequestException):
            self._api.kill(self.id)

    def close(self) -> None:
        """Remove the container and its anonymous volumes."""
        with contextlib.suppress(Gone), engine_errors(f"removing the helper of {self._program}"):
            try:
                self._api.remove_container(self.id, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # already being removed
                    raise
