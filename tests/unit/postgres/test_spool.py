"""What dead runs left in the spool goes, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

from backup.postgres.clients import sweep_spool

OURS, OTHERS = "0123456789ab", "ba9876543210"
RUN = "20261129T203000Z-abcdef"


def test_pipes_password_files_and_sockets_of_one_volume_are_swept(tmp_path: Path) -> None:
    for instance in (OURS, OTHERS):
        for suffix in ("fifo", "pass", "0.gate", "1.out.fifo"):
            (tmp_path / f"{instance}.{RUN}.{suffix}").touch()
        folder = tmp_path / f"{instance}.0123456789abcdef.sock"
        folder.mkdir()
        (folder / ".s.PGSQL.5432.lock").touch()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folder / ".s.PGSQL.5432"))
    (tmp_path / f"{OURS}.notes").touch()
    assert sweep_spool(tmp_path, OURS) == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(OURS)) == [f"{OURS}.notes"]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(OTHERS)]) == 5
