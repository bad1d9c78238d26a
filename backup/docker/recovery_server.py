"""A server that replays WAL over a base backup: nobody's network, no capability, its data in an anonymous volume.

Three kinds of containers share that volume. One that is never started owns it; short-lived ones fill it as root; the
server runs as the image's own user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from docker.types import LogConfig

from backup.docker.container import described
from backup.docker.engine import Engine, SpoolMount
from backup.docker.helper import Helper
from backup.docker.throwaway_server import SETTINGS
from backup.docker.translate_errors import engine_errors
from backup.errors import EngineError
from backup.formatting import printable

PLACE: Final = "/recovery"
DATA: Final = f"{PLACE}/data"
PG_WAL: Final = f"{DATA}/pg_wal"
# A user of this name is in every image of the official kind.
_USER: Final = "postgres"
_LAST_WORDS: Final = 5


class RecoveryVolume:
    """Where one cluster is recovered, and the containers that work on it, all of `image` and with these `labels`.

    `data`: where its data are to lie, if not there, mounted at DATA.
    """

    def __init__(
        self, engine: Engine, image: str, shown: str, labels: Mapping[str, str], data: SpoolMount | None = None
    ) -> None:
        self._engine, self._image, self._labels = engine, image, labels
        self._data = data
        self.shown = printable(shown)
        with engine_errors(f"making a place for a recovery with {self.shown}"):
            made = engine.api.create_container(
                image=image,
                entrypoint=["true"],
                labels=dict(labels),
                volumes=[PLACE],
                host_config=engine.api.create_host_config(
                    network_mode="none", cap_drop=["ALL"], mounts=[data] if data else None
                ),
            )
            self._owner = str(made["Id"])

    def free(self) -> int:
        """Free bytes where its data lie."""
        if self._data:
            return self._engine.room(self._image, DATA, self._labels, mounts=[self._data])[0]
        with engine_errors("the place of the recovery"):
            owner = described(self._engine.api.inspect_container(self._owner))
        return self._engine.free(owner, PLACE, self._labels)[0]

    def run(self, script: str, words: Sequence[str], spool: SpoolMount, caps: Sequence[str] = ()) -> Helper:
        """Start a shell script that works on it, as root."""
        with engine_errors(f"starting a helper of {self.shown}"):
            return Helper.start(
                self._engine.api,
                self._image,
                ["sh", "-c", script, *words],
                self._labels,
                cap_add=list(caps),
                network_mode="none",
                mounts=[spool],
                volumes_from=[self._owner],
            )

    def serve(self, settings: Mapping[str, str], spool: SpoolMount, group: int) -> RecoveryServer:
        """Start the server. It writes its socket where `group` may write in the spool."""
        words = [word for name, value in {**SETTINGS, **settings}.items() for word in ("-c", f"{name}={value}")]
        with engine_errors(f"starting a server of {self.shown} for a recovery"):
            api = self._engine.api
            created = api.create_container(
                image=self._image,
                entrypoint=["postgres"],
                command=["-D", DATA, *words],
                user=_USER,
                labels=dict(self._labels),
                healthcheck={"test": ["NONE"]},
                environment={"LC_MESSAGES": "C", "PGDATA": DATA},
                host_config=api.create_host_config(
                    network_mode="none",
                    read_only=True,
                    tmpfs={"/tmp": "size=16m"},  # noqa: S108 - inside of the container
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    group_add=[str(group)],
                    volumes_from=[self._owner],
                    mounts=[spool],
                    # The application on the same machine comes first.
                    cpu_shares=256,
                    mem_limit="2g",
                    shm_size="1g",
                    pids_limit=256,
                    log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "2"}),
                ),
            )
            server = RecoveryServer(self._engine, str(created["Id"]), self.shown)
            api.start(server.id)
            return server


class RecoveryServer:
    """The server that recovers, and then answers its sockets."""

    def __init__(self, engine: Engine, identifier: str, shown: str) -> None:
        self._engine, self.id, self._shown = engine, identifier, shown
        self._helper = Helper(engine.api, identifier, "the recovered server")
        with engine_errors("the recovered server"):
            self.container = described(engine.api.inspect_container(identifier))

    def shut_down(self, seconds: int) -> None:
        """Let it write what it has to, and end; EngineError when it has not by then."""
        with engine_errors("shutting down the recovered server"):
            self._engine.api.kill(self.id, "SIGINT")
            self._engine.api.wait(self.id, timeout=seconds)

    def log(self) -> list[str]:
        """What it has said, line by line."""
        return self._helper.errors().splitlines()

    def require_running(self) -> None:
        """EngineError, with its last words, unless it runs."""
        with engine_errors("the recovered server"):
            state = self._engine.api.inspect_container(self.id)["State"]
        if not state.get("Running"):
            killed = " because the machine was short of memory" if state.get("OOMKilled") else ""
            said = printable("; ".join(line for line in self.log()[-_LAST_WORDS:]))
            raise EngineError(
                f"the server of {self._shown} ended{killed} with exit code {state.get('ExitCode')} before it had"
                f" recovered: {said}. Nothing was published",
                "Is it the image that the base was taken with? Its log above says what it lacked.",
            )
