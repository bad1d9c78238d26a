"""The dashboard for Grafana and the rules for Prometheus: they ask for nothing that /metrics does not export."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from backup.model.wal import WalSlot
from backup.service.web.metrics import exposition
from tests.support import overviews

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: Any = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
RULES: Any = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SELECTOR = re.compile(r"(obcms_backup_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)(=~?)"([^"]*)"')
# What Prometheus itself adds to each sample.
TARGET = {"instance", "job"}


def exported() -> dict[str, dict[str, set[str]]]:
    """Each metric with its labels and their values, of backups in any state."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    slotted = overviews.with_slot(WalSlot(name="s", held=5, safe=7))
    for seen in (overviews.healthy(), overviews.warning(), overviews.critical(), overviews.recoverable(), slotted):
        for family in text_string_to_metric_families(exposition(seen).decode()):
            for sample in family.samples:
                for name, value in sample.labels.items():
                    found[sample.name][name].add(value)
                found[sample.name].update({})
    return {name: dict(labels) for name, labels in found.items()}


EXPORTED = exported()


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    yield from ((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"])


@pytest.mark.parametrize(("where", "text"), list(expressions()))
def test_what_is_asked_for_is_exported(where: str, text: str) -> None:
    asked = SELECTOR.findall(text)
    assert asked, f"{where} asks for none of our metrics"
    for name, matchers in asked:
        assert name in EXPORTED, f"{where}: there is no metric {name}"
        for label, sign, value in LABEL.findall(matchers):
            if label not in TARGET:
                values = value.split("|") if sign == "=~" else [value]
                assert set(values) <= EXPORTED[name].get(label, set()), f"{where}: {name} has no {label} {value}"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_legends_name_labels_that_there_are(panel: Any) -> None:
    for target in panel["targets"]:
        (name, _), *_ = SELECTOR.findall(target["expr"])
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(EXPORTED[name])
        assert '{instance=~"$instance"' in target["expr"], "a panel shows the services that were chosen"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_rules_say_how_bad_it_is_and_what_to_do(rule: Any) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"} and all(rule["annotations"].values())
    used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) - TARGET
    assert used <= {label for name, _ in SELECTOR.findall(rule["expr"]) for label in EXPORTED[name]}


def test_each_alert_has_a_name_of_its_own() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10


def test_panels_cover_no_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_nobodys_data_source_is_named() -> None:
    sources = {json.dumps(panel["datasource"], sort_keys=True) for panel in PANELS}
    assert sources == {'{"type": "prometheus", "uid": "${source}"}'}
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"source", "instance"}


def test_every_metric_of_the_window_is_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name, _ in SELECTOR.findall(target["expr"])}
    window = {name for name in EXPORTED if re.match("obcms_backup_(offsite_)?(window|wal|newest_base|base)_", name)}
    left = {
        *(
            "window_end_timestamp_seconds",
            "window_proven_timestamp_seconds",
            "wal_looked_timestamp_seconds",
            "newest_base_age_limit_seconds",
            "wal_slot",
        ),
        *("offsite_window_start_timestamp_seconds", "offsite_window_end_timestamp_seconds"),
    }
    assert window - shown == {f"obcms_backup_{name}" for name in left} and len(window) == 23
