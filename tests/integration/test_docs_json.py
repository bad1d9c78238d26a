"""The lines of docs/json.md: what jq makes of the documents as commands print them here."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

from tests.support.database import Server
from tests.support.documented_commands import stated
from tests.support.restoring import Target
from tests.support.schemas import FOLDER

PREFIX = "docker compose exec -T backup backup "
LINES = [each.text for each in stated() if each.page == "docs/json.md" and " | jq " in each.text]


def test_jq_reads_what_the_page_says(tmp_path: Path, server: Server) -> None:
    assert len(LINES) == (FOLDER.parent / "json.md").read_text().count(" | jq ") > 5
    sidecar = Target.make(tmp_path, server).sidecar
    assert sidecar.run("drill", "latest").code == 0
    answers = {}
    for line in LINES:
        command, jq = line.removeprefix(PREFIX).split(" | jq ", 1)
        text = json.dumps(sidecar.run(*shlex.split(command)).json)
        done = subprocess.run(["jq", *shlex.split(jq)], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
        answers[jq] = done.stdout
    # The volume of a test may be memory, and nothing is old enough to go.
    assert [jq for jq, answer in answers.items() if not answer and "reasons" not in jq and "decisions" not in jq] == []
    assert answers["-r .health.status"] in ("pass\n", "warn\n", "fail\n")
