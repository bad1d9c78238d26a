#!/usr/bin/env bash
# rope renames a function in all modules that use it. A report about the keyword in `dict(a=a)` was closed years ago.
#
# Expected: keyword arguments belong to what is called, and stay: in `Record(source=source(text))` the first `source` is
# a field of Record, the second the function that is renamed.
# Seen, rope 1.15.2: in every module that imports the function, the keyword is renamed as well where the callee is a
# dataclass, or a class that rope cannot look into (a library that is not installed, one with **options): also where
# the value is another variable. `SimpleNamespace(source=...)` is left alone, so a small trial looks right. Nothing is
# said; the calls fail when they are made, or, with **options, not even then.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rope==1.15.2
mkdir "$folder/code" && cd "$folder/code"
cat >names.py <<'PY'
def source(text):
    return text.strip()
PY
cat >records.py <<'PY'
from dataclasses import dataclass


@dataclass
class Record:
    source: str
PY
cat >use.py <<'PY'
from types import SimpleNamespace

from names import source
from records import Record


def build(text):
    return Record(source=source(text))


def copy(text):
    return Record(source=text)


def plain(text):
    return SimpleNamespace(source=source(text))
PY
"$folder/venv/bin/python" - <<'PY'
from rope.base.project import Project
from rope.refactor.rename import Rename

project = Project(".", ropefolder=None)
names = project.get_resource("names.py")
project.do(Rename(project, names, names.read().index("source")).get_changes("origin"))
PY
grep -n 'return' use.py
said=$("$folder/venv/bin/python" -c 'import use; use.copy("x")' 2>&1 | tail -n 1 || true)
echo "$said"
grep -q 'Record(origin=origin(text))' use.py && grep -q 'Record(origin=text)' use.py &&
  grep -q 'SimpleNamespace(source=origin(text))' use.py || { echo "this has changed"; exit 1; }
case $said in *"unexpected keyword argument 'origin'"*) ;; *) echo "this has changed"; exit 1 ;; esac
