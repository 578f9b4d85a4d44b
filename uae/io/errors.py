"""Errors a user can act on. The command line prints their message without a traceback and exits with 1."""

import re
from typing import Any

# A password may hold a slash: SQLAlchemy takes it so.
_USER_INFO = re.compile(r"(?<=://)(?:[^/?#\s]*|[^/?#\s@:]*:(?!\d+/)[^\s@]*)@")

_SECRET = re.compile(r"(?i)(?<=[?&;])(pass(?:word|wd)?|pwd|token|api[-_]?key|secret|sig(?:nature)?)=[^&;#\s'\"]+")


class UaeError(Exception):
    """Base class: the message names the file, row or field and what to do.

    ``transient`` says whether the same call, with nothing changed, may succeed later: a server is away, a database is locked, a
    disk is full. It is the caller's decision to try again; nothing here does. All other errors are permanent: they come back
    until somebody changes a parameter, a file or a model.
    """

    def __init__(self, message: str = "", *, transient: bool = False):
        super().__init__(message)
        self.transient = transient


class ConfigError(UaeError):
    """A parameter is unknown, missing or has an impossible value."""


class InputError(UaeError):
    """Source data cannot be read as the format it claims to be."""


class ModelError(UaeError):
    """A model reference cannot be resolved, or what it names is not usable."""


class ArtefactError(UaeError):
    """A stage's input is missing, damaged or was made by another version of something."""


class RegistryError(UaeError):
    """MLflow does not answer, refuses, or has lost what it is asked for; ``transient`` tells the first from the others."""


class DatabaseError(UaeError):
    """A database does not answer, refuses, or lacks what is needed of it; ``transient`` tells the first from the others."""


class ExecutionError(UaeError):
    """What the work is spread over does not answer, stands still, loses its workers, or has workers of another version."""


class ValidationFailed(UaeError):
    """An expectation suite found failing rows; ``report`` holds them, suite by suite."""

    def __init__(self, message: str, report: dict[str, Any]):
        super().__init__(message)
        self.report = report


def without_user_info(text: str) -> str:
    """``text`` without the user name and password of any address in it: neither belongs in a message or on a page.

    A password can stand among an address's parameters too (``?password=``): there three stars are left of it.
    """
    return _SECRET.sub(r"\1=***", _USER_INFO.sub("", text))
