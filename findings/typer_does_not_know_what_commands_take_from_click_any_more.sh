#!/usr/bin/env bash
# Commands of a Typer app have always been commands of click: they raise click.exceptions.Exit and click.UsageError, ask
# click.get_current_context(), and may be mounted in a click group. Typer 0.29 brings a copy of click of its own.
#
# Expected: with click installed beside it, what a command takes from `click` goes on working, or its import fails.
# Seen, typer 0.29.2 with click 8.5.1: everything imports and the group mounts the command, but an Exit(7) of click's ends
# in a traceback with code 1, the context is None, and an unknown option of a mounted command is a traceback with code 1
# instead of two lines of usage with code 2. With typer 0.16.0 and the same program: 7, a context, 2.
# So scripts that tell exit codes apart take every intended code for a crash.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/program.py" <<'PYTHON'
import click
import typer

app = typer.Typer()


@app.command()
def leave() -> None:
    raise click.exceptions.Exit(7)


@app.command()
def context() -> None:
    print("context:", "none" if click.get_current_context(silent=True) is None else "there")


@click.group()
def both() -> None: ...


both.add_command(typer.main.get_command(app), "mounted")

if __name__ == "__main__":
    import sys

    (both if sys.argv[1] == "mounted" else app)()
PYTHON
tried() { # the version of typer: what is seen with it
  local python="$folder/$1/bin/python" code
  python3 -m venv "$folder/$1"
  "$folder/$1/bin/pip" install --quiet --disable-pip-version-check "typer==$1" "click==$2" >/dev/null 2>&1
  code=0 && "$python" "$folder/program.py" leave >/dev/null 2>&1 || code=$?
  printf 'Exit(7): %s; %s; ' "$code" "$("$python" "$folder/program.py" context 2>&1 | tail -n 1)"
  code=0 && "$python" "$folder/program.py" mounted leave --unknown >"$folder/said" 2>&1 || code=$?
  printf 'unknown option: %s, %s\n' "$code" "$(grep -q Traceback "$folder/said" && echo traceback || echo usage)"
}
before=$(tried 0.16.0 8.1.8)
now=$(tried 0.29.2 8.5.1)
printf 'typer 0.16.0, click 8.1.8: %s\ntyper 0.29.2, click 8.5.1: %s\n' "$before" "$now"
[ "$before" = 'Exit(7): 7; context: there; unknown option: 2, usage' ] &&
  [ "$now" = 'Exit(7): 1; context: none; unknown option: 1, traceback' ] || { echo "this has changed"; exit 1; }
