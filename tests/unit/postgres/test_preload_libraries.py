"""What a throw-away server loads when it starts."""

from __future__ import annotations

from backup.model.manifest import Preload
from backup.postgres.preload_libraries import preloading


def test_the_libraries_of_the_set_and_their_settings_but_nothing_acts_by_itself() -> None:
    libraries = ("pg_stat_statements", "$libdir/pg_cron", "timescaledb", "pg_partman_bgw", 'od"d')
    settings = {"pg_stat_statements.max": "100", "cron.database_name": "other", "cron.max_running_jobs": "32"}
    found = preloading(Preload(libraries=libraries, settings=settings), "obcms")
    assert found.pop("shared_preload_libraries") == '"pg_stat_statements", "$libdir/pg_cron", "timescaledb", "od""d"'
    assert found == {
        "pg_stat_statements.max": "100",
        "cron.database_name": "obcms",
        "cron.max_running_jobs": "0",
        "cron.launch_active_jobs": "off",
        "cron.log_run": "off",
        "timescaledb.max_background_workers": "0",
        "timescaledb.telemetry_level": "off",
    }


def test_without_libraries_nothing_is_set() -> None:
    assert preloading(Preload(settings={"plpgsql.check_asserts": "off"}), "obcms") == {}
    assert preloading(Preload(libraries=("repmgr",)), "obcms") == {}
