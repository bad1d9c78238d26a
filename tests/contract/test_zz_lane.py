import os
from pathlib import Path
import pytest
M = Path("/tmp/lanetest")
@pytest.mark.parametrize("x", ["a b[c]", "d@e"])
def test_flaky(x) -> None:
    mark = M / f"mark{x[0]}"
    if not mark.exists() and os.environ.get("L") == "flaky":
        mark.touch()
        raise AssertionError("first")
def test_crash() -> None:
    mark = M / "markcrash"
    if not mark.exists() and os.environ.get("L") == "crash":
        mark.touch()
        os._exit(3)
@pytest.fixture
def bad():
    mark = M / "markfix"
    if not mark.exists() and os.environ.get("L") == "fixture":
        mark.touch()
        raise AssertionError("fix")
def test_fixture(bad) -> None: ...
def test_always() -> None:
    assert os.environ.get("L") != "always"
