"""The swap by itself: who gets which release, when the old one is closed, what a failed load does."""

import asyncio
import json
import logging
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from uae.io.errors import ArtefactError
from uae.io.files import write_text
from uae.release.store import ReleaseStore
from uae.serving.switch import NotReady, Served, Switch

A, B, C = (letter * 64 for letter in "abc")


class FakeRelease:
    """What the switch and warming ask of a release. It notes whether it was used after its end."""

    systems = ("uae", "base")

    def __init__(self, fingerprint: str, breaks: bool = False):
        self.fingerprint, self.breaks = fingerprint, breaks
        self.closed, self.warmed = 0, []

    def search(self, queries, k, system="uae"):
        assert not self.closed
        if self.breaks:
            raise RuntimeError("the session is broken")
        self.warmed.append((system, "query", len(queries)))
        return [[SimpleNamespace(text="The seal is torn at its edge.")] * 3 for _ in queries]

    def rows(self, filters):
        self.warmed.append(("filters", filters))

    def close(self):
        self.closed += 1


class FakeBatcher:
    def __init__(self):
        self.closed = 0

    async def close(self):
        self.closed += 1


class Opener:
    """``open_served`` of stand-ins. ``hold`` keeps it from returning; ``fails`` names what cannot be opened."""

    def __init__(self):
        self.opened: list[Served] = []
        self.asked: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.go, self.began = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, folder: Path) -> Served:
        name = folder.name
        self.asked.append(name)
        self.began.set()
        assert self.go.wait(30)
        if name in self.fails:
            raise self.fails[name]
        served = Served(FakeRelease(name), FakeBatcher(), {"version": 1})
        self.opened.append(served)
        return served

    def of(self, fingerprint: str) -> Served:
        (served,) = [each for each in self.opened if each.fingerprint == fingerprint]
        return served


@pytest.fixture
def store(tmp_path) -> ReleaseStore:
    for fingerprint in (A, B, C):
        folder = tmp_path / "releases" / fingerprint
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return ReleaseStore(tmp_path)


def say_active(store: ReleaseStore, fingerprint: str) -> None:
    """As ``activate`` does, without opening the stand-ins."""
    store._write(fingerprint, [], [], "activate")


async def until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within half a minute")


def test_nothing_is_leased_before_the_first_release(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=5)
        with pytest.raises(NotReady):
            async with switch.lease():
                pass
        assert switch.current is None
        assert await switch.to(store.path(A))
        async with switch.lease() as served:
            assert served.fingerprint == A
            assert served is switch.current
        assert opener.of(A).release.warmed == [("uae", "query", 1), ("uae", "query", 3), ("base", "query", 3), ("filters", {})]
        await switch.close()
        assert (opener.of(A).release.closed, opener.of(A).batcher.closed) == (1, 1)
        with pytest.raises(NotReady):
            async with switch.lease():
                pass

    asyncio.run(scenario())


def test_the_old_release_is_closed_when_its_last_request_is_done_and_new_requests_get_the_new_one(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=30)
        await switch.to(store.path(A))
        old = opener.of(A)
        async with switch.lease() as first:
            async with switch.lease() as second:
                swap = asyncio.create_task(switch.to(store.path(B)))
                await until(lambda: switch.current.fingerprint == B)
                async with switch.lease() as third:
                    assert [each.fingerprint for each in (first, second, third)] == [A, A, B]
            await asyncio.sleep(0.05)
            assert not swap.done()
            assert not old.release.closed
            assert switch.state() | {"draining": [A], "switches": 2, "release": B} == switch.state()
        assert await swap
        assert (old.release.closed, old.batcher.closed) == (1, 1)
        assert switch.state()["draining"] == []
        assert not opener.of(B).release.closed
        await switch.close()

    asyncio.run(scenario())


def test_a_request_that_outlives_the_drain_limit_is_not_cut_off(store, caplog):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=0.01)
        await switch.to(store.path(A))
        async with switch.lease() as served:
            assert await switch.to(store.path(B))  # it does not wait for ever
            assert not served.release.closed
            assert switch.state()["draining"] == [A]
        await until(lambda: served.release.closed)
        await until(lambda: switch.state()["draining"] == [])
        await switch.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert "still has 1 requests" in caplog.text


@pytest.mark.parametrize("error", [ArtefactError("the index is of another encoder"), RuntimeError("bad allocation")])
def test_a_failed_load_leaves_the_old_release_serving(store, caplog, error):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=5)
        await switch.to(store.path(A))
        opener.fails[B] = error
        with pytest.raises(type(error), match=str(error)):
            await switch.to(store.path(B))
        async with switch.lease() as served:
            assert served.fingerprint == A
        state = switch.state()
        assert (state["failures"], state["switches"], state["loading"]) == (1, 1, None)
        assert str(error) in state["last_error"]
        assert await switch.to(store.path(C))
        assert switch.state()["last_error"] is None
        await switch.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert f"{A[:12]} serves on" in caplog.text
    assert str(error) in caplog.text


def test_a_release_that_cannot_answer_its_first_query_is_closed_again(store):
    async def scenario():
        release = FakeRelease(B, breaks=True)
        switch = Switch(lambda folder: Served(release, FakeBatcher(), None), drain_s=5)
        with pytest.raises(RuntimeError, match="the session is broken"):
            await switch.to(store.path(B))
        assert release.closed == 1
        assert switch.current is None
        with pytest.raises(NotReady, match="the session is broken"):  # whoever asks is told why
            async with switch.lease():
                pass

    asyncio.run(scenario())


def test_the_same_release_is_not_loaded_twice(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=5)
        assert await switch.to(store.path(A))
        assert await switch.to(store.path(A))
        assert opener.asked == [A]
        assert switch.state()["switches"] == 1
        await switch.close()

    asyncio.run(scenario())


def test_of_rapid_activations_the_last_one_wins(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=5)
        opener.go.clear()
        calls = [asyncio.create_task(switch.to(store.path(each))) for each in (A,)]
        await until(opener.began.is_set)
        calls += [asyncio.create_task(switch.to(store.path(each))) for each in (B, C)]
        await asyncio.sleep(0.05)
        opener.go.set()
        assert await asyncio.gather(*calls) == [False, False, True]
        assert switch.current.fingerprint == C
        assert opener.asked == [A, C]  # B was overtaken before it was opened
        assert opener.of(A).release.closed == 1
        await switch.close()

    asyncio.run(scenario())


def test_what_a_cancelled_swap_still_opens_is_closed(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=5)
        opener.go.clear()
        call = asyncio.create_task(switch.to(store.path(A)))
        await until(opener.began.is_set)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        opener.go.set()
        await until(lambda: opener.opened and opener.of(A).release.closed)
        assert switch.current is None
        assert await switch.to(store.path(B))
        await switch.close()

    asyncio.run(scenario())


def test_many_requests_and_many_swaps_never_meet_a_closed_release(store):
    async def scenario():
        opener = Opener()
        switch = Switch(opener, drain_s=30)
        await switch.to(store.path(A))
        chance, stop, answered = random.Random(7), asyncio.Event(), set()

        async def client():
            while not stop.is_set():
                async with switch.lease() as served:
                    for _ in range(chance.randrange(4)):
                        assert not served.release.closed
                        await asyncio.sleep(chance.random() / 500)
                    assert not served.release.closed
                answered.add(served)
                await asyncio.sleep(0)

        clients = [asyncio.create_task(client()) for _ in range(16)]
        for _ in range(10):
            for each in (B, C, A):
                await switch.to(store.path(each))
                await asyncio.sleep(0.002)
        stop.set()
        await asyncio.gather(*clients)
        assert switch.state()["switches"] == 31
        assert len(answered) == 31
        assert [each.release.closed for each in opener.opened] == [1] * 30 + [0]
        assert [each.batcher.closed for each in opener.opened] == [1] * 30 + [0]
        await switch.close()

    asyncio.run(scenario())


# Watching the store


class Watching:
    """A switch that watches the store as often as it can, for the length of a ``with``."""

    def __init__(self, store: ReleaseStore, opener: Opener, retry_s: float):
        self.store, self.opener, self.retry_s, self.polls = store, opener, retry_s, 0
        stamp = store.stamp

        def counted():
            self.polls += 1
            return stamp()

        store.stamp = counted

    async def __aenter__(self) -> Switch:
        self.switch = Switch(self.opener, drain_s=5)
        self.task = asyncio.create_task(self.switch.watch(self.store, every_s=0.001, retry_s=self.retry_s))
        return self.switch

    async def __aexit__(self, *error):
        assert not self.task.done()  # nothing ends the watch
        self.task.cancel()
        await self.switch.close()

    async def polled(self, times: int) -> None:
        goal = self.polls + times
        await until(lambda: self.polls >= goal)


def test_watch_serves_what_is_active_and_follows_it(store):
    async def scenario():
        opener = Opener()
        watching = Watching(store, opener, retry_s=3600)
        async with watching as switch:
            await watching.polled(3)  # an empty store is no error: the first release may come later
            assert switch.state() | {"release": None, "failures": 0} == switch.state()
            for fingerprint in (A, B, A):
                say_active(store, fingerprint)
                await until(lambda wanted=fingerprint: switch.current and switch.current.fingerprint == wanted)
            await watching.polled(5)
            assert opener.asked == [A, B, A]

    asyncio.run(scenario())


def test_a_broken_release_is_not_tried_again_at_once_but_after_another_activation(store):
    async def scenario():
        opener = Opener()
        watching = Watching(store, opener, retry_s=3600)
        async with watching as switch:
            say_active(store, A)
            await until(lambda: switch.current)
            opener.fails[B] = ArtefactError("damaged")
            say_active(store, B)
            await until(lambda: switch.state()["failures"])
            await watching.polled(50)
            assert opener.asked == [A, B]
            assert switch.current.fingerprint == A
            say_active(store, B)  # by hand once more: that is tried
            await until(lambda: switch.state()["failures"] == 2)
            say_active(store, C)
            await until(lambda: switch.current.fingerprint == C)
            assert switch.state()["last_error"] is None
            assert opener.asked == [A, B, B, C]

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", ["rolled back", "withdrawn"])
def test_a_failure_is_forgotten_when_what_is_asked_for_is_served_again(store, ends):
    async def scenario():
        opener = Opener()
        opener.fails[B] = ArtefactError("B is broken")
        switch = Switch(opener, drain_s=5)
        say_active(store, A)
        watching = asyncio.create_task(switch.watch(store, every_s=0.01, retry_s=60))
        await until(lambda: switch.current)
        say_active(store, B)
        await until(lambda: switch.state()["last_error"])
        if ends == "rolled back":
            say_active(store, A)
        else:
            (store.folder / "active.json").unlink()
        await until(lambda: switch.state()["last_error"] is None)
        assert (switch.current.fingerprint, switch.switches, switch.failures) == (A, 1, 1)
        watching.cancel()
        await switch.close()

    asyncio.run(scenario())


def test_a_passing_failure_is_tried_again_by_itself(store):
    async def scenario():
        opener = Opener()
        opener.fails[A] = MemoryError("no room now")
        async with Watching(store, opener, retry_s=0.001) as switch:
            say_active(store, A)
            await until(lambda: switch.state()["failures"] >= 3)
            del opener.fails[A]
            await until(lambda: switch.current)
            assert switch.current.fingerprint == A

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"active": "../../etc"}', json.dumps({"active": "d" * 64, "before": [], "history": []})]
)
def test_a_broken_active_json_leaves_the_old_release_serving(store, content):
    async def scenario():
        opener = Opener()
        watching = Watching(store, opener, retry_s=3600)
        async with watching as switch:
            say_active(store, A)
            await until(lambda: switch.current)
            write_text(store.folder / "active.json", content)  # at once: half of it would be another failure
            await until(lambda: switch.state()["failures"])
            await watching.polled(20)
            assert switch.state() | {"failures": 1, "release": A} == switch.state()
            say_active(store, B)
            await until(lambda: switch.current.fingerprint == B)

    asyncio.run(scenario())


def test_a_watched_release_that_is_overtaken_while_it_loads_is_closed(store):
    async def scenario():
        opener = Opener()
        opener.go.clear()
        watching = Watching(store, opener, retry_s=3600)
        async with watching as switch:
            say_active(store, A)
            await until(opener.began.is_set)
            say_active(store, B)
            await watching.polled(3)
            say_active(store, C)
            await watching.polled(3)
            opener.go.set()
            await until(lambda: switch.current and switch.current.fingerprint == C)
            assert opener.of(A).release.closed == 1
            assert opener.asked == [A, C]

    asyncio.run(scenario())
