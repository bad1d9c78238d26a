"""Errors of the Docker engine, translated once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.errors import NotFound as NoSuchObject

from backup.errors import EngineError
from backup.formatting import printable

# For the first word with an engine; who has had an answer already has the socket, and the rights.
NO_ENGINE: Final = (
    "Is /var/run/docker.sock mounted and may this user open it? Without an engine, set DB_HOST, DB_NAME,"
    " DB_USER and DB_PASSWORD for the network way."
)
_LOST: Final = "It was stopped, restarted or killed meanwhile: its own log says more. Once it answers, run this again."


class Gone(EngineError):
    """The engine knows no such container or image."""


@contextlib.contextmanager
def engine_errors(what: str, hint: str = _LOST) -> Iterator[None]:
    """Turn an error of the engine or of the way to it into an EngineError about `what`; `hint` if it says nothing."""
    try:
        yield
    except ImageNotFound as error:
        raise Gone(f"{what}: {printable(str(error.explanation))}", "Pull or build the image again.") from error
    except NoSuchObject as error:
        raise Gone(f"{what}: {printable(str(error.explanation))}") from error
    except APIError as error:
        said = printable(str(error.explanation or error))
        raise EngineError(f"{what}: the Docker engine refused: {said}", _hint(said)) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineError(f"{what}: the Docker engine does not answer: {printable(str(error))}", hint) from error


def _hint(said: str) -> str:
    if "executable file not found" in said or "no such file" in said:
        return "The database's image has no such client; set DB_HOST to reach the server over the network instead."
    if "non running container" in said or "is not running" in said:
        return "The database container stopped; see its log, then run this again."
    return ""
