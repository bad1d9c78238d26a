"""Throw-away PostgreSQL servers: a set's own image, no network at all, their data in an anonymous volume."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

from docker.types import LogConfig

from backup.docker.container import Container, described
from backup.docker.engine import Engine
from backup.docker.helper import Helper
from backup.docker.translate_errors import engine_errors
from backup.errors import EngineError
from backup.formatting import printable

_READY: Final = 120.0
_PAUSE: Final = 0.1
# Nothing here outlives the drill: durability would only cost time.
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1d",
    "autovacuum": "off",
    "archive_mode": "off",
    "logging_collector": "off",
    "jit": "off",
    "shared_buffers": "256MB",
    # Measured once each, 1.7 million documents: 18 builds a GIN index in 9 s, with 256MB in 19 s; 17 in 15 to 17 s,
    # with 256MB in 16 to 20 s. B-trees gained nothing from more.
    "maintenance_work_mem": "64MB",
    "max_connections": "20",
    # pg_dump locks every table at once: enough for 160,000.
    "max_locks_per_transaction": "8192",
}
# How images of the official kind name their entrypoint. It would start the server twice; unless it has more to do than
# to make an empty cluster, that is done directly. Sockets are for the entrypoint alone: we come by loopback.
_ENTRYPOINT: Final = "docker-entrypoint.sh"
_DIRECTLY: Final = """
    if [ "$(id -u)" = 0 ] && [ -n "$PGDATA" ] && [ ! -e "$PGDATA/PG_VERSION" ] \\
       && [ -z "$(ls -A /docker-entrypoint-initdb.d 2>/dev/null)" ] \\
       && command -v gosu >/dev/null && command -v initdb >/dev/null && command -v postgres >/dev/null
    then
      mkdir -p "$PGDATA" && chmod 700 "$PGDATA" && chown postgres "$PGDATA" || exit
      exec gosu postgres sh -c '
        initdb --username="$POSTGRES_USER" --auth=trust --no-sync --no-instructions >/dev/null || exit
        exec "$@" -c unix_socket_directories=' sh "$@"
    fi
    exec "$0" "$@"
"""
# Waits a while, and says what there is to know in one go: each question to a container takes a tenth of a second.
_ASKING: Final = """
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
      if pg_isready --quiet --host=127.0.0.1 --timeout=10 --username="$POSTGRES_USER" --dbname=template1; then
        postgres --version && exec stat -f -c '%a %S' -- "$PGDATA"
      fi
      sleep 0.05
    done
    exit 2
"""
# What the image's entrypoint needs to hand its data over to its own user.
_CAPABILITIES: Final = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]


class ThrowawayServer:
    """A running throw-away server. Only this machine's helpers can reach it, and they need no password."""

    def __init__(self, engine: Engine, container: Container) -> None:
        self._engine, self.container = engine, container
        self._user = container.environment.get("POSTGRES_USER", "")
        self._helper = Helper(engine.api, container.id, "the throw-away server")
        self._said = ""

    def ask(self, *command: str) -> tuple[int, str]:
        """Run a command inside; its exit code and what it said. Only here: a live server gets no process of ours."""
        with engine_errors("the throw-away server"):
            made = self._engine.api.exec_create(self.container.id, list(command))
            said: bytes = self._engine.api.exec_start(made["Id"])
            return int(self._engine.api.exec_inspect(made["Id"])["ExitCode"] or 0), said.decode(errors="replace")

    def version(self) -> str:
        """The server's version, as in 17.11; once it takes connections."""
        words = self._said.partition("\n")[0].split()
        if len(words) < 3:
            raise EngineError(f"the throw-away server reports no version: {printable(self._said)}")
        return words[2]

    def major(self) -> int:
        """The server's major version, as in 17; once it takes connections."""
        version = self.version()
        if found := re.match(r"\d+", version):
            return int(found[0])
        raise EngineError(f"the throw-away server's version is not a number: {printable(version)}")

    @property
    def data(self) -> str:
        """Where its data lies, inside."""
        return self.container.pgdata

    def free(self) -> int:
        """Free bytes of the file system that its data lie on, when it began to take connections."""
        words = self._said.partition("\n")[2].split()
        if len(words) != 2 or not all(word.isdigit() for word in words):
            raise EngineError(f"the free space of the throw-away server is unknown: {printable(self._said)}")
        return int(words[0]) * int(words[1])

    def answers(self) -> bool:
        """True when it takes connections; EngineError when it does not, which a moment later it may."""
        # It logs in: not into what is restored, where a trigger may act on that.
        ready = ["pg_isready", "--quiet", "--host=127.0.0.1", "--timeout=10", "--dbname=template1"]
        if self.ask(*ready, f"--username={self._user}")[0]:
            raise EngineError("the throw-away server takes no connections", "Is the machine overloaded? Run it again.")
        return True

    def wait(self) -> None:
        """Until it takes connections; EngineError with its last words when it does not."""
        deadline = time.monotonic() + _READY
        while True:
            with engine_errors("the throw-away server"):
                state = self._engine.api.inspect_container(self.container.id)["State"]
            if state.get("Running") and self._ready():
                return
            if not state.get("Running") or time.monotonic() > deadline:
                said = printable("; ".join(self._helper.errors().strip().splitlines()[-5:]))
                raise EngineError(
                    f"the throw-away server of {printable(self.container.image)} did not become ready: {said}",
                    "Does the image support POSTGRES_USER and POSTGRES_HOST_AUTH_METHOD as the official one does?",
                )
            time.sleep(_PAUSE)

    def _ready(self) -> bool:
        code, self._said = self.ask("sh", "-c", _ASKING)
        return code == 0

    def close(self) -> None:
        """Remove it with its data."""
        self._helper.close()


def start_server(
    engine: Engine, image: str, bootstrap: str, labels: Mapping[str, str], more: Mapping[str, str]
) -> ThrowawayServer:
    """Start a throw-away server of `image`, initialised by the role `bootstrap`; not yet ready. `more` settings."""
    # Ours count where both have one.
    chosen = {**more, **SETTINGS}
    settings = [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]
    with engine_errors(f"starting a throw-away server of {printable(image)}"):
        created = engine.api.create_container(
            image=image,
            entrypoint=_directly(engine.api.inspect_image(image)["Config"].get("Entrypoint") or []),
            command=["postgres", *settings],
            labels=dict(labels),
            healthcheck={"test": ["NONE"]},
            environment={
                "POSTGRES_USER": bootstrap or "postgres",
                "POSTGRES_DB": "postgres",
                # There is no network but its own loopback, so there is nobody to keep out and no secret to leak.
                "POSTGRES_HOST_AUTH_METHOD": "trust",
                "POSTGRES_INITDB_ARGS": "--no-sync",
            },
            host_config=engine.api.create_host_config(
                network_mode="none",
                cap_drop=["ALL"],
                cap_add=_CAPABILITIES,
                security_opt=["no-new-privileges"],
                # The application on the same machine comes first.
                cpu_shares=256,
                mem_limit="2g",
                shm_size="1g",
                pids_limit=256,
                log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "1"}),
            ),
        )
        try:
            engine.api.start(created["Id"])
            return ThrowawayServer(engine, described(engine.api.inspect_container(created["Id"])))
        except BaseException:
            Helper(engine.api, created["Id"], "the throw-away server").close()
            raise


def _directly(entrypoint: list[str]) -> list[str] | None:
    """The image's entrypoint behind a shell that may do without it; None (the image's own) where it is unknown."""
    known = len(entrypoint) == 1 and entrypoint[0].rpartition("/")[2] == _ENTRYPOINT
    return ["sh", "-c", _DIRECTLY, *entrypoint] if known else None
