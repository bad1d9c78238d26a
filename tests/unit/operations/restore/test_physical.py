"""What a plan of a physical restore says, and what forbids it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.wal_archive import WalArchive
from backup.docker.container import DataPlace
from backup.errors import DatabaseUnavailable, RestoreFailed
from backup.model.manifest import Preload
from backup.model.moment import Wanted
from backup.model.wal import Received
from backup.operations.pitr.recover import Moment
from backup.operations.restore import cluster, run
from backup.operations.restore.cluster_record import ClusterSwap
from backup.operations.restore.journal import Kept, KeptDatabase, RestoreStep
from backup.operations.restore.physical import Physical, PhysicalFacts, plan, refusals
from backup.postgres.cluster_trees import DataFolder
from backup.postgres.replication import ClusterUse
from tests.unit.model.test_wal import at, base, whole

PLACE = DataPlace("id", "db", "sha256:1", "volume", "pgdata", "/data", "/data")
FOLDER = DataFolder("1", 1000, "999:999", 1 << 40, (), (), tablespaces=False)
USE = ClusterUse(
    standby=False,
    system_identifier="1",
    timeline=1,
    started=1001,
    followers=(),
    subscriptions=(),
    databases=(("app", 1 << 30, 3), ("other", 1 << 20, 0)),
)
KEPT = Kept(
    id="1",
    set="s",
    replaced=at(0),
    database=KeptDatabase(live="app", current_oid=1, kept="app__before_1", kept_oid=2),
)


@pytest.fixture
def moment(tmp_path: Path) -> Moment:
    of = base(2, 2).model_copy(update={"image_id": "sha256:1", "image": "postgres:17", "system_identifier": "1"})
    received, archive = Received(whole(range(2, 5))), WalArchive(tmp_path, "1")
    return Moment(Wanted(at(3)), archive, of, received, "app", Preload(), None, ZoneInfo("UTC"))


FACTS = PhysicalFacts(PLACE, "postgres:17", FOLDER, USE, 1 << 30, None, ("web1",), ("web1: migrate",))


def test_nothing_forbids_it(moment: Moment) -> None:
    assert list(refusals(moment, FACTS)) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(FACTS, place=replace(PLACE, image_id="sha256:2")), "another image (postgres:17"),
        (replace(FACTS, use=replace(USE, system_identifier="2")), "of another cluster"),
        (replace(FACTS, folder=replace(FOLDER, system_identifier="2")), "are not those of the server that answers"),
        (replace(FACTS, folder=replace(FOLDER, started=0)), "are not those of the server that answers"),
        (replace(FACTS, folder=replace(FOLDER, links=("pg_wal",))), "pg_wal lies elsewhere"),
        (replace(FACTS, folder=replace(FOLDER, tablespaces=True)), "has tablespaces"),
        (replace(FACTS, use=replace(USE, standby=True)), "is a standby"),
        (replace(FACTS, use=replace(USE, archiving=True)), "archives its WAL"),
        (replace(FACTS, use=replace(USE, followers=("standby1",))), "follow this one (standby1)"),
        (replace(FACTS, use=replace(USE, subscriptions=("news",))), "subscribes to other servers (news)"),
        (
            replace(FACTS, folder=replace(FOLDER, others=("orioledb_data/",))),
            "orioledb_data/ in the data folder may be",
        ),
        (replace(FACTS, kept=KEPT), "app__before_1 is kept for `undo`"),
        (replace(FACTS, needed=1 << 50), "where 1.1 TB are free"),
    ],
)
def test_what_forbids_it(moment: Moment, facts: PhysicalFacts, said: str) -> None:
    assert any(said in each.text and each.hint for each in refusals(moment, facts)), list(refusals(moment, facts))


def test_a_base_of_an_unknown_image_is_refused(moment: Moment) -> None:
    unknown = replace(moment, base=moment.base.model_copy(update={"image_id": ""}))
    assert [each.level for each in refusals(unknown, FACTS)] == ["fail"]


def test_the_plan_names_all_that_goes_back(moment: Moment) -> None:
    wish = Physical(cast(Any, SimpleNamespace(moment=moment)), PLACE, "postgres:17", None)
    found = plan(wish, FACTS, [("last commit", "then")])
    text = "\n".join(f"{label}: {words}" for section in found.sections for label, words in section.rows)
    for words in (
        "app (1.1 GB, 3 sessions), other (1.0 MB",
        "last commit: then",
        "web1",
        "web1: migrate",
        "roles",
        "empty",
    ):
        assert words in text, text
    assert found.possible and not plan(wish, replace(FACTS, needed=1 << 50), []).possible


@pytest.mark.parametrize(
    ("live", "done"),
    [
        # Stopped again, it would begin its crash recovery anew each time.
        ("new", ["new", "start"]),
        ("old", ["stop", "new", "start"]),
        ("moving", ["stop", "new", "start"]),
    ],
)
def test_a_server_that_is_the_wanted_one_already_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, live: str, done: list[str]
) -> None:
    calls: list[str] = []
    server = SimpleNamespace(
        sweep=lambda: None,
        container=lambda: SimpleNamespace(running=False),
        stop=lambda: calls.append("stop"),
        start=lambda: calls.append("start"),
    )
    trees = SimpleNamespace(server=server, state=lambda: live, settle=calls.append)
    monkeypatch.setattr(cluster, "trees_of", lambda context, swap: trees)
    monkeypatch.setattr(cluster, "_await", lambda work, swap, onward: None)
    progress = SimpleNamespace(phase=lambda text: None)
    swap = ClusterSwap(place=PLACE, stamp="20261130000000", system_identifier="1")
    work = SimpleNamespace(
        context=SimpleNamespace(progress=progress), journal=SimpleNamespace(cluster=swap), window=0.0
    )
    cluster.exchange(cast(Any, work), onward=True)
    assert calls == done


@pytest.mark.parametrize(("step", "comes_back"), [(RestoreStep.SWAPPING_DATABASE, True), (RestoreStep.SWAPPED, False)])
def test_after_a_kill_a_cluster_that_does_not_come_up_is_brought_back(
    monkeypatch: pytest.MonkeyPatch, step: RestoreStep, comes_back: bool
) -> None:
    """Otherwise each further attempt would stop the server again, and fail alike."""
    calls: list[str] = []

    def fails(work: object) -> None:
        raise DatabaseUnavailable("it does not answer", "Look.")

    monkeypatch.setattr(run.commit_rollback, "forward", fails)
    monkeypatch.setattr(run.commit_rollback, "back", lambda work: calls.append("back"))
    swap = ClusterSwap(place=PLACE, stamp="20261130000000", system_identifier="1")
    work = SimpleNamespace(journal=SimpleNamespace(cluster=swap, step=step))
    with pytest.raises(RestoreFailed if comes_back else DatabaseUnavailable):
        run._forward(cast(Any, work))
    assert calls == (["back"] if comes_back else [])
