"""What DVC lets through of a store that it asks: its own errors, and those of the store's client as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

from uae.io.errors import ArtefactError, UaeError


@contextmanager
def remote_errors(doing: str, advice: str) -> Iterator[None]:
    """For what asks a remote.

    Args:
        doing: begins the message.
        advice: a sentence that ends it.

    Raises:
        ArtefactError: transient, where trying again may help.
    """
    from dvc.exceptions import DvcException

    try:
        yield
    except UaeError:
        raise
    except Exception as error:
        if not isinstance(error, (DvcException, OSError)) and not is_away(error):
            raise
        later = not isinstance(error, (PermissionError, FileNotFoundError))
        raise ArtefactError(f"{doing}: {error}. {advice}", transient=later) from error


def is_away(error: Exception) -> bool:
    """Whether an error tells that a store does not answer. DVC knows none that goes away in the middle."""
    from uae.registry.errors import is_transient  # it is slow to import

    return is_transient(error)
