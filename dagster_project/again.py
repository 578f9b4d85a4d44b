"""What becomes of an error: one that may go away by itself is tried again, any other ends the run with its message."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from dagster_project.orphans import end_after_the_run
from uae.io.errors import UaeError

# A server that is away, a lock, a full queue: after 5, 10, 20 ... 160 seconds. Other errors come back until somebody does
# something, and are not tried again. So this is no policy of the op, which would try those, too.
AGAIN = dg.RetryPolicy(max_retries=6, delay=5, backoff=dg.Backoff.EXPONENTIAL)


@contextmanager
def explained(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[None]:
    """For what an op or an asset does.

    Raises:
        RetryRequested: for a transient error, until it was tried often enough.
        Failure: for another one. A user can act on it: the message is enough.
    """
    end_after_the_run()
    try:
        yield
    except UaeError as error:
        if error.transient and context.retry_number < AGAIN.max_retries:
            pause = AGAIN.calculate_delay(context.retry_number + 1)
            context.log.warning(f"{error} (tried again in {pause:.0f} s)")
            raise dg.RetryRequested(AGAIN.max_retries, pause) from error
        raise dg.Failure(str(error), allow_retries=False) from None
