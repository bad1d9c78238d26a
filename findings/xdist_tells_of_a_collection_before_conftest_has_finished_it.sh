#!/usr/bin/env bash
# A worker of pytest-xdist runs `pytest_collection_finish` of conftest.py, too; the controller then hears of its tests.
#
# Expected: what conftest.py does there (write what the scheduler needs, check the collection) is done when the
# controller is told that the worker has collected. Of hooks without an order, a conftest's is called before those of
# plugins that pytest loads at its start.
# Seen: with pytest 9.2.0 and pytest-xdist 3.8.0 the worker's own plugin is registered after the first conftest.py, so it
# is called before it: the controller is told first, and may hand out tests while conftest.py is still at work. Only a
# race shows it: a scheduler that reads a file which the hook writes finds it as long as workers are not ready at once.
# With `tryfirst` the hook comes first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
echo 'def test_nothing(): pass' >"$folder/test_nothing.py"

told() { # arguments of hookimpl: what there is of the hook's work when the controller is told
  cat >"$folder/conftest.py" <<PY
import os
import time
from pathlib import Path

import pytest


@pytest.hookimpl($1)
def pytest_collection_finish(session):
    if "PYTEST_XDIST_WORKER" in os.environ:
        time.sleep(1)
        Path("done").touch()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    Path("told").write_text("done" if Path("done").exists() else "not done")
PY
  (cd "$folder" && rm -f done told && venv/bin/pytest -q -p no:cacheprovider -n 1 test_nothing.py >&2)
  cat "$folder/told"
}

plain=$(told "") first=$(told "tryfirst=True")
echo "when the controller is told, the hook of conftest.py is: $plain; with tryfirst: $first"
[ "$plain" = "not done" ] && [ "$first" = "done" ] || { echo "this has changed"; exit 1; }
