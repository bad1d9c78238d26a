"""PID 1 of the container. Without arguments it serves; any other first word is a command of the CLI."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# Importable also where Python does not put the script's directory on the path (-I, -P).
sys.path.insert(0, str(Path(__file__).resolve().parent))

# Nothing that is imported ever goes; to look through it again and again takes a tenth of a command's start.
# `backup.cli` turns it on when it has imported the command.
gc.disable()

from backup.cli import main  # noqa: E402

if __name__ == "__main__":
    os.umask(0o077)  # dumps hold everything that the database holds
    sys.exit(main(sys.argv[1:] or ["serve"]))
