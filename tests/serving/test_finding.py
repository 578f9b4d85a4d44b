"""The threads that search: a bounded queue, and nobody who leaves while a thread works for them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deploy.finding import Finding
from deploy.schemas import ApiError
from uae.release.open import Release


def working(scenario, **settings):
    """Run ``scenario(finding, go, begun)``: work is ``hold``, which appends its name to ``begun`` and waits for ``go``."""
    go, begun = threading.Event(), []

    def hold(name: str) -> str:
        begun.append(name)
        assert go.wait(20)
        return name

    async def run():
        finding = Finding(**{"threads": 1, "max_waiting": 2} | settings)
        try:
            await scenario(finding, go, begun, hold)
            assert finding.waiting == 0
        finally:
            go.set()
            finding.close()

    asyncio.run(run())


def test_who_finds_no_room_is_told_when_to_come_back():
    async def scenario(finding, go, begun, hold):
        tasks = [asyncio.create_task(finding.run(hold, name)) for name in "abc"]
        await asyncio.sleep(0.05)
        assert (begun, finding.waiting) == (["a"], 2)
        with pytest.raises(ApiError) as refused:
            await finding.run(hold, "d")
        assert (refused.value.status, refused.value.code, refused.value.headers) == (429, "queue_full", {"Retry-After": "1"})
        go.set()
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
        assert await finding.run(hold, "e") == "e"

    working(scenario)


def test_a_later_part_waits_for_its_turn_where_others_find_no_room():
    async def scenario(finding, go, begun, hold):
        tasks = [asyncio.create_task(finding.run(hold, name)) for name in "abc"]
        await asyncio.sleep(0.05)
        later = asyncio.create_task(finding.run(hold, "d", begun=True))
        with pytest.raises(ApiError):
            await finding.run(hold, "e")
        go.set()
        assert await asyncio.gather(*tasks, later) == begun == ["a", "b", "c", "d"]

    working(scenario)


@pytest.mark.parametrize("cancels", [1, 2, 3])
def test_cancelled_any_number_of_times_it_waits_for_its_thread(cancels):
    async def scenario(finding, go, begun, hold):
        task = asyncio.create_task(finding.run(hold, "a"))
        while not begun:
            await asyncio.sleep(0.01)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0.02)
        assert not task.done()  # who waits here still has the lease
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    working(scenario)


def test_cancelled_before_a_thread_has_begun_it_never_begins():
    async def scenario(finding, go, begun, hold):
        first = asyncio.create_task(finding.run(hold, "a"))
        second = asyncio.create_task(finding.run(hold, "b"))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.wait([second], timeout=5)
        assert second.cancelled()
        assert finding.waiting == 0
        go.set()
        assert await first == "a"
        assert begun == ["a"]

    working(scenario)


def test_a_full_queue_is_429_with_retry_after_over_http(live, monkeypatch):
    """One search of the index holds the only thread, one waits; the third is told to come back, and then comes through."""
    url = live(find_threads=1, queue_finds=1)
    go, began, answer = threading.Event(), threading.Event(), Release.answer

    def held(*arguments, **options):
        began.set()
        assert go.wait(20)
        return answer(*arguments, **options)

    def ask() -> httpx.Response:
        return httpx.post(f"{url}/v1/search", json={"query": "keys"}, timeout=30)

    monkeypatch.setattr(Release, "answer", held)
    with ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(ask)]
        assert began.wait(20)
        answers.append(clients.submit(ask))
        until(lambda: "uae_queue_finds 1.0" in httpx.get(f"{url}/metrics").text)
        refused = ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        go.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert ask().status_code == 200
    assert "uae_queue_finds 0.0" in httpx.get(f"{url}/metrics").text


def until(condition) -> None:
    for _ in range(400):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not happen within 20 s")
