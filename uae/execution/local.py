"""The map over batches on threads of this process."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

B = TypeVar("B")
R = TypeVar("R")


def spread(
    work: Callable[[B], R], batches: Iterable[B], workers: int, start: Callable[[], None], end: Callable[[], None]
) -> Iterator[tuple[B, R]]:
    """Each batch with its result, as soon as it is there; ``workers`` batches are in flight at once.

    Args:
        start: called by each thread before it works, where there are several.
        end: called when they are done.
    """
    if workers == 1:
        for batch in batches:
            yield batch, work(batch)
        return
    batches = iter(batches)
    try:
        with ThreadPoolExecutor(workers, initializer=start) as pool:
            in_flight = {pool.submit(work, batch): batch for batch in islice(batches, workers)}
            try:
                while in_flight:
                    done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
                    ended = [(in_flight.pop(future), future) for future in done]
                    # What was read is passed on before an error ends it all.
                    for batch, future in sorted(ended, key=lambda item: item[1].exception() is not None):
                        yield batch, future.result()
                        # Not before this result is stored: a kill would lose one batch more.
                        in_flight |= {pool.submit(work, batch): batch for batch in islice(batches, 1)}
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        end()
