"""What a throw-away server loads when it starts, from what the set's own server did. Pure.

Nothing there may act by itself: jobs that a set brings along would change what is to be compared, and there is no
network to look for other servers in.
"""

from __future__ import annotations

from typing import Final

from backup.model.manifest import Preload
from backup.postgres.dump.statements import quoted
from backup.postgres.server_dependencies import ONE_DATABASE

# Only a worker that runs jobs or looks for other servers: nothing in a database needs these to be loaded.
_LEFT_OUT: Final = ("pg_net", "pg_partman_bgw", "pgautofailover", "repmgr")
# Of libraries that are loaded all the same: no jobs, no telemetry.
_QUIET: Final = {
    "pg_cron": {"cron.launch_active_jobs": "off", "cron.max_running_jobs": "0", "cron.log_run": "off"},
    "timescaledb": {"timescaledb.max_background_workers": "0", "timescaledb.telemetry_level": "off"},
}


def preloading(preload: Preload, database: str) -> dict[str, str]:
    """The settings of a server that such a `database` is loaded into; none when it needs no library."""
    libraries = [name for name in preload.libraries if extension_of(name) not in _LEFT_OUT]
    if not libraries:
        return {}
    settings = dict(preload.settings)
    for extension in map(extension_of, libraries):
        settings |= _QUIET.get(extension, {})
        if extension in ONE_DATABASE:
            settings[ONE_DATABASE[extension][0]] = database
    return {"shared_preload_libraries": ", ".join(map(quoted, libraries)), **settings}


def extension_of(library: str) -> str:
    """The extension that a library is of: `$libdir/pg_cron` is that of pg_cron."""
    return library.rpartition("/")[2].removesuffix(".so")
