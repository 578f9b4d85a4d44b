"""The release that is served now, and the swap to another one while requests run.

A request leases what is served for as long as it works with it, so that each answer comes from one release. A swap loads the new
release beside the old one, in a thread. Then one assignment decides which of them the next request gets. The swap closes the old
release when the last lease of it is back, so no request loses its release, and none is closed twice.

The loading thread has the same priority as all others. On Linux, threads inherit the priority of the thread that starts them, and
ONNX Runtime starts there the threads that answer requests later.
"""

import asyncio
import contextlib
import ctypes
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from uae.io.errors import ArtefactError, UaeError
from uae.io.files import read_json
from uae.release.open import Release
from uae.release.store import Active
from uae.retrievers.protocol import Side
from uae.serving.batching import Vectors

_WARMING_TEXTS = 8
_LONGEST_RETRY_S = 300.0

log = logging.getLogger(__name__)


class NotReady(UaeError):
    """No release is loaded (yet)."""


class Batcher(Protocol):
    """What the switch and the holders of a lease use of ``uae.serving.batching``."""

    @property
    def waiting(self) -> int:
        """Texts that wait for the model."""
        ...

    async def encode(self, texts: Sequence[str], lengths: Sequence[int], kind: Side, system: str) -> Vectors:
        """Vectors of texts, shape (n, dim)."""
        ...

    async def close(self) -> None:
        """Called when no request is left in it: stop its tasks and threads."""


class Alias(Protocol):
    """What says which release is to be served: a store, or a collection in a database."""

    @property
    def folder(self) -> object:
        """What messages call it."""
        ...

    def active(self) -> Active | None:
        """The release to serve; None: none yet.

        Raises:
            UaeError: it cannot be told, or the release's files are not there.
        """
        ...

    def stamp(self) -> object:
        """Something that changes whenever ``active`` may."""
        ...


class Served:
    """An opened release and the batcher in front of it. A request has both through ``Switch.lease`` and keeps neither."""

    def __init__(self, release: Release, batcher: Batcher, origin: dict[str, Any] | None):
        """
        Args:
            origin: where the release came from, ``uae.release.store.read_origin(folder)``.
        """
        self.release = release
        self.batcher = batcher
        self.origin = origin

    @property
    def fingerprint(self) -> str:
        return self.release.fingerprint

    def warm(self) -> None:
        """Answer a few real queries, the beginnings of passages, so that no user's request is the first. Runs in a thread."""
        (hits,) = self.release.search(["the"], _WARMING_TEXTS)
        texts = [hit.text[: 40 * (place + 1)] for place, hit in enumerate(hits)]  # of several lengths
        for system in self.release.systems:
            self.release.search(texts, _WARMING_TEXTS, system=system)
        self.release.rows({})  # reads the documents' metadata, which the first filter would have to wait for

    async def close(self) -> None:
        await self.batcher.close()
        await asyncio.to_thread(self.release.close)
        await asyncio.to_thread(_give_back_memory)


class _Held:
    """What is served, and how many requests have it."""

    def __init__(self, served: Served):
        self.served = served
        self.leases = 0
        self.idle = asyncio.Event()
        self.idle.set()


class Switch:
    """Holds the release that is served. All methods are called on one event loop."""

    def __init__(self, open_served: Callable[[Path], Served], drain_s: float):
        """
        Args:
            open_served: opens a release folder with everything that serving it takes; called in a thread of its own. It raises
                where the folder is no release that may be served.
            drain_s: how long a swap waits for the old release's requests before it says so in the log; they are never cut off.
        """
        self._open, self._drain_s = open_served, drain_s
        self._held: _Held | None = None
        self._turn = asyncio.Lock()  # one release is loaded at a time, so that no more than two need memory
        self._calls = 0
        self._followed = 0
        self._loader = ThreadPoolExecutor(1, "release-loading")
        self._leaving: list[_Held] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.loading: str | None = None  # the folder
        self.switches = 0
        self.failures = 0
        self.last_error: str | None = None  # why what is asked for is not served; None where it is

    @property
    def current(self) -> Served | None:
        """What the next lease gets. To look at; to work with it, lease it."""
        return self._held.served if self._held else None

    def state(self) -> dict[str, Any]:
        """For metrics and ``/v1/release``: what is loaded, is being loaded, and has not been closed yet."""
        return {
            "release": self._held.served.fingerprint if self._held else None,
            "leases": self._held.leases if self._held else 0,
            "loading": self.loading,
            "draining": [held.served.fingerprint for held in self._leaving],
            "switches": self.switches,
            "failures": self.failures,
            "last_error": self.last_error,
        }

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Served]:
        """What is served now. It stays open until it is given back, whatever is switched to meanwhile.

        Raises:
            NotReady: nothing is served.
        """
        held = self._held
        if held is None:
            raise NotReady(f"no release is served yet{f': {self.last_error}' if self.last_error else ''}")
        held.leases += 1
        held.idle.clear()
        try:
            yield held.served
        finally:
            held.leases -= 1
            if not held.leases:
                held.idle.set()

    async def to(self, folder: Path) -> bool:
        """Load the release in ``folder`` beside the one that is served, warm it, switch to it, drain and close the old one.

        Returns when the old one is closed, or ``drain_s`` have passed; then it is closed by itself when its last lease is back.
        The release that is served already is not loaded again.

        Returns:
            Whether ``folder`` is served now. False: a later call has overtaken this one.

        Raises:
            Exception: what opening raised. The old release serves on; ``failures`` and ``last_error`` tell.
        """
        self._calls += 1
        call = self._calls
        async with self._turn:
            if call != self._calls:
                return False
            try:
                if self.current and self.current.fingerprint == _fingerprint(folder):
                    self.last_error = None  # a release that could not be loaded was rolled back
                    return True
                served = await self._load(folder)
            except Exception as error:
                self._failed(str(error) if isinstance(error, UaeError) else f"{folder}: {error!r}")
                raise
            self.last_error = None
            if call != self._calls:
                log.info("release %s was overtaken while it was loaded", served.fingerprint[:12])
                await served.close()
                return False
            old, self._held = self._held, _Held(served)  # from here on, requests get the new one
            self.switches += 1
            log.info("release %s is served now", served.fingerprint[:12])
            if old:
                await self._retire(old)
        return True

    async def watch(self, store: Alias, every_s: float = 1.0, retry_s: float = 5.0) -> None:
        """Serve what is active in ``store``, now and whenever that changes. Runs until it is cancelled.

        Args:
            every_s: how often ``store`` is looked at.
            retry_s: after a failed load the same release is tried again in so many seconds, then in twice as many, up to five
                minutes. Another activation is tried at once.
        """
        seen = None
        while True:
            stamp = await asyncio.to_thread(store.stamp)
            if stamp != seen:
                seen = stamp
                self._background(self._follow(store, retry_s))  # beside the polling, so that a newer one overtakes
            await asyncio.sleep(every_s)

    async def close(self) -> None:
        """Close what is served, after its last lease or ``drain_s``, and stop loading."""
        self._calls += 1  # overtakes what is being loaded
        async with self._turn:
            held, self._held = self._held, None
            if held:
                await self._retire(held)
        for task in self._tasks:
            task.cancel()
        self._loader.shutdown(wait=False)

    async def _follow(self, store: Alias, pause: float) -> None:
        """Serve what is active in the store, with pauses between failed attempts, until it is or the store has changed."""
        self._followed += 1
        turn = self._followed
        while turn == self._followed:
            try:
                active = await asyncio.to_thread(store.active)
            except Exception as error:  # whatever stands in the folder must not end the watch
                active = None
                self._failed(str(error) if isinstance(error, UaeError) else f"{store.folder}: {error!r}")
            else:
                if active is None:
                    self.last_error = None  # what could not be read is asked for no longer
                    return
            if active:
                with contextlib.suppress(Exception):  # to() has logged and counted it
                    await self.to(active.folder)
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_S)

    def _failed(self, reason: str) -> None:
        self.failures += 1
        self.last_error = reason
        kept = f"{self.current.fingerprint[:12]} serves on" if self.current else "nothing is served"
        log.error("release not loaded, %s: %s", kept, reason)

    async def _load(self, folder: Path) -> Served:
        def load() -> Served:
            served = self._open(folder)
            try:
                served.warm()
            except BaseException:
                served.release.close()
                raise
            return served

        self.loading = str(folder)
        work = self._loader.submit(load)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            # The thread cannot be stopped. If it still opens a release, it closes it.
            work.add_done_callback(_close_result)
            raise
        finally:
            self.loading = None

    async def _retire(self, held: _Held) -> None:
        self._leaving.append(held)
        closing = self._background(self._close_when_idle(held))
        done, _ = await asyncio.wait([closing], timeout=self._drain_s)
        if not done:
            log.warning(
                "release %s still has %d requests after %g s; it is closed after the last of them",
                held.served.fingerprint[:12], held.leases, self._drain_s,
            )  # fmt: skip

    async def _close_when_idle(self, held: _Held) -> None:
        await held.idle.wait()
        try:
            await held.served.close()
        except Exception:  # nobody waits for it any more, and the new one serves
            log.exception("release %s could not be closed", held.served.fingerprint[:12])
        else:
            log.info("release %s is closed", held.served.fingerprint[:12])
        self._leaving.remove(held)

    def _background(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)  # the event loop keeps no strong reference
        task.add_done_callback(self._tasks.discard)
        return task


def _close_result(done: Future[Served]) -> None:
    if not done.cancelled() and not done.exception():
        done.result().release.close()


def _give_back_memory() -> None:
    """Have the C library return what a closed release held: it would keep it for itself, a little more with every swap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have none
    if trim:
        trim(0)


def _fingerprint(folder: Path) -> str:
    """What the manifest says; opening checks it."""
    manifest = read_json(Path(folder) / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("fingerprint"), str):
        raise ArtefactError(f"{folder}/manifest.json names no fingerprint: this is no release")
    return str(manifest["fingerprint"])
