#!/usr/bin/env bash
# pytest-xdist's `--dist loadgroup` promises that tests with one `xdist_group` run on one worker.
#
# Expected: it does, or refuses to run beside a pytest that it does not work with.
# Seen: with pytest 9.2.0 and pytest-xdist 3.8.0 the mark has no effect and nothing is said: the tests of a group are
# spread over the workers. xdist appends the group to the private field `_nodeid` of each item; pytest 9.2 keeps the
# identity of a node elsewhere, so what the scheduler is told has no group in it. Fixtures of a module or session are
# made once in each worker: slower at best, and wrong where a group was to keep tests from each other.
# With pytest 9.0 the same test file keeps its groups.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/test_groups.py" <<'PY'
import os
import time

import pytest


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("one", "two")])
def test_in_a_group(group, number):
    time.sleep(0.2)
    with open("workers", "a") as out:
        out.write(f"{group} {os.environ['PYTEST_XDIST_WORKER']}\n")
PY

workers() { # pytest's version: how many workers ran tests of group one
  python3 -m venv "$folder/$1"
  "$folder/$1/bin/pip" install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0
  (cd "$folder" && rm -f workers && "$folder/$1/bin/pytest" -q -p no:cacheprovider -n 2 --dist loadgroup test_groups.py >&2)
  grep '^one ' "$folder/workers" | sort -u | wc -l
}

before=$(workers 9.0.2) now=$(workers 9.2.0)
echo "workers that ran tests of one group: pytest 9.0.2: $before, pytest 9.2.0: $now"
[ "$before" = 1 ] && [ "$now" = 2 ] || { echo "this has changed"; exit 1; }
