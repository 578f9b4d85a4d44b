"""What MLflow, its database and its server raise, as ``RegistryError``: one line, marked as transient or permanent."""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from uae.io.errors import RegistryError, UaeError, without_user_info

_AGAIN = "run the same command again later"

# MLflow logs the traceback of what it raises. The error that reaches the user says all of it.
logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: not record.exc_info)


_AWAY = (requests.ConnectionError, requests.Timeout, requests.exceptions.RetryError, ConnectionError, TimeoutError)
# MLflow downloads in threads, and keeps of their errors the words alone: botocore's.
_STORE_AWAY = (
    "Could not connect to the endpoint URL",
    "Connection was closed before",
    "timeout on endpoint URL",
    "SlowDown",
    "(503)",
)
_FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)


@contextmanager
def registry_errors(doing: str, advice: Callable[[], str] = str) -> Iterator[None]:
    """Turn what MLflow raises within the block into a RegistryError. It can also decorate a function.

    Args:
        doing: begins the message, such as "tracking.uri X: MLflow cannot be used there".
        advice: says what to do about a permanent error; it is called after the failure. For a transient one it is always to try
            again.

    Raises:
        RegistryError: MLflow, its database or its server failed, or a file of theirs is missing.
    """
    try:
        yield
    except UaeError:
        raise
    except Exception as error:
        if not isinstance(error, _FAILURES) and not _is_of_a_store(error):
            raise
        raise _registry_error(error, doing, advice) from error


@contextmanager
def logging_errors(doing: str) -> Iterator[None]:
    """As ``registry_errors``, for a block that does other work besides: an OSError of that work is not MLflow's."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (MlflowException, SQLAlchemyError)) and not _is_of_a_store(error):
            raise
        raise _registry_error(error, doing, str) from error


def _registry_error(error: Exception, doing: str, advice: Callable[[], str]) -> RegistryError:
    """One error for the user: what was asked, the first line of the reason without passwords, what to do."""
    transient = is_transient(error)
    what_to_do = _AGAIN if transient else advice()
    said = f"{doing}: {_reason(error)}{f'; {what_to_do}' if what_to_do else ''}"
    return RegistryError(without_user_info(said), transient=transient)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: a locked database, a full disk, a server that is away, busy or restarting."""
    causes = list(_chain(error))
    for cause in causes:
        # First: MLflow wraps every OperationalError as "temporarily unavailable", also that of a read-only database.
        if isinstance(cause, OperationalError):
            said = str(cause.orig)
            return "sqlite3" not in type(cause.orig).__module__ or "locked" in said or "busy" in said
        if isinstance(cause, SQLAlchemyError):
            return False
    for cause in causes:
        if isinstance(cause, _AWAY) or (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)):
            return True
        if _is_of_a_store(cause) and _store_is_away(cause):
            return True
        if isinstance(cause, MlflowException):
            if any(words in str(cause) for words in _STORE_AWAY):
                return True
            # Without a server, an unknown code counts as 500 and says nothing.
            status: int = cause.get_http_status_code()  # type: ignore[no-untyped-call]
            if status in (429, 502, 503, 504) or (status >= 500 and isinstance(cause, RestException)):
                return True
    return False


def _is_of_a_store(error: BaseException) -> bool:
    """Whether the clients of S3 raised it: MLflow lets their errors through. They are installed where such a store is used."""
    return type(error).__module__.partition(".")[0] in ("botocore", "boto3", "s3transfer")


def _store_is_away(error: BaseException) -> bool:
    status: int | None = (
        getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
    )  # of botocore's ClientError
    if status is not None:
        return status == 429 or status >= 500
    # What has no answer was not answered; a missing key or a wrong parameter was never sent.
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"HTTPClientError", "ConnectionError", "RetriesExceededError"})


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__


def _reason(error: Exception) -> str:
    for cause in _chain(error):
        if isinstance(cause, OperationalError) and "locked" in str(cause.orig):
            return "another process holds the lock of its database"
    return (str(error).splitlines() or [repr(error)])[0]
