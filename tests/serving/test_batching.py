"""Batches: what goes together, in which order, and that everybody gets the vectors of their own texts."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uae.io.errors import ArtefactError
from uae.serving.batching import Closed, MicroBatcher, QueueFull

LIMITS = {"max_texts": 8, "max_tokens": 1000, "padding": 0.5, "max_waiting": 100, "workers": 1}


def vector(text: str, kind: str, system: str) -> list[float]:
    return [len(text), float(text.split("-")[0]), len(kind), len(system)]


class Encoder:
    """A model whose calls are recorded, and held until ``let_go`` is set."""

    def __init__(self, held: bool = False):
        self.batches: list[list[str]] = []
        self.let_go = threading.Event()
        self.entered = threading.Event()
        if not held:
            self.let_go.set()

    def __call__(self, texts: list[str], kind: str, system: str) -> np.ndarray:
        self.batches.append(texts)
        self.entered.set()
        assert self.let_go.wait(30)
        if "0-broken" in texts:
            raise ValueError("cannot read this")
        return np.array([vector(text, kind, system) for text in texts], dtype=np.float32)


def batcher(encoder: Encoder, seen: list | None = None, **limits) -> MicroBatcher:
    return MicroBatcher(encoder, observe=([] if seen is None else seen).append, **LIMITS | limits)


def ask(
    made: MicroBatcher, *texts: str, lengths: list[int] | None = None, kind: str = "query", system: str = "uae"
) -> asyncio.Task:
    lengths = lengths or [len(text) for text in texts]
    return asyncio.create_task(made.encode(list(texts), lengths, kind, system))


async def in_the_model(encoder: Encoder) -> None:
    await asyncio.to_thread(encoder.entered.wait, 30)


def test_a_lone_request_goes_at_once_and_alone():
    async def run():
        encoder, seen = Encoder(), []
        made = batcher(encoder, seen)
        found = await ask(made, "7-a")
        await made.close()
        assert found.tolist() == [vector("7-a", "query", "uae")]
        assert found.dtype == np.float32
        assert [(batch.texts, batch.padded_tokens) for batch in seen] == [(1, 3)]
        assert made.waiting == 0

    asyncio.run(run())


def test_what_waits_while_the_model_is_busy_goes_together_and_so_does_what_arrives_at_once():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder)
        first = [ask(made, "1-a"), ask(made, "2-a")]
        await in_the_model(encoder)
        others = [ask(made, f"{n}-a") for n in range(3, 8)]
        await asyncio.sleep(0)
        assert made.waiting == 5
        encoder.let_go.set()
        found = await asyncio.gather(*first, *others)
        await made.close()
        assert [len(batch) for batch in encoder.batches] == [2, 5]
        assert [rows[0][1] for rows in found] == [1, 2, 3, 4, 5, 6, 7]

    asyncio.run(run())


def test_short_texts_are_not_padded_by_long_ones_and_the_oldest_goes_first():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder)
        first = ask(made, "0-first")
        await in_the_model(encoder)
        long = ask(made, *[f"{n}-long" for n in range(4)], lengths=[200] * 4)
        short = [ask(made, f"{n}-s", lengths=[5]) for n in range(6)]
        await asyncio.sleep(0)
        encoder.let_go.set()
        await asyncio.gather(first, long, *short)
        await made.close()
        assert [sorted(batch) for batch in encoder.batches[1:]] == [[f"{n}-long" for n in range(4)], [f"{n}-s" for n in range(6)]]

    asyncio.run(run())


def test_a_long_text_does_not_starve_among_short_ones():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_texts=2)
        tasks = [ask(made, "0-first")]
        await in_the_model(encoder)
        tasks.append(ask(made, "1-s", lengths=[5]))
        tasks.append(ask(made, "9-long", lengths=[500]))
        tasks += [ask(made, f"{n}-s", lengths=[5]) for n in range(2, 12)]
        await asyncio.sleep(0)
        encoder.let_go.set()
        await asyncio.gather(*tasks)
        await made.close()
        assert "9-long" in encoder.batches[2]

    asyncio.run(run())


def test_kinds_and_systems_never_share_a_batch():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder)
        tasks = [ask(made, "0-first")]
        await in_the_model(encoder)
        routes = [("query", "uae"), ("document", "uae"), ("query", "base")]
        tasks += [ask(made, f"{n}-x", kind=kind, system=system) for n in range(2) for kind, system in routes]
        await asyncio.sleep(0)
        encoder.let_go.set()
        found = await asyncio.gather(*tasks)
        await made.close()
        assert [len(batch) for batch in encoder.batches] == [1, 2, 2, 2]
        assert [rows[0].tolist() for rows in found[1:]] == [vector(f"{n}-x", *route) for n in range(2) for route in routes]

    asyncio.run(run())


def test_a_cancelled_request_is_never_encoded_and_makes_room():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_waiting=4)
        first = ask(made, "0-first")
        await in_the_model(encoder)
        gone, kept = ask(made, "1-gone", "2-gone", "3-gone"), ask(made, "4-kept")
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as full:
            await ask(made, "5-late")
        assert full.value.retry_after_s >= 1
        gone.cancel()
        await asyncio.wait([gone])
        assert made.waiting == 1
        late = ask(made, "5-late")
        await asyncio.sleep(0)
        first.cancel()  # it is in the model already: its vectors go nowhere
        encoder.let_go.set()
        await asyncio.gather(kept, late)
        await made.close()
        assert sorted(text for batch in encoder.batches for text in batch) == ["0-first", "4-kept", "5-late"]

    asyncio.run(run())


def test_a_request_finds_room_for_all_its_texts_or_for_none():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_waiting=3)
        tasks = [ask(made, "0-first")]
        await in_the_model(encoder)
        tasks.append(ask(made, "1-a", "2-a"))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 texts wait already"):
            await ask(made, "3-a", "4-a")
        tasks.append(ask(made, "5-a"))
        encoder.let_go.set()
        await asyncio.gather(*tasks)
        await made.close()

    asyncio.run(run())


def test_a_text_that_the_encoder_fails_on_fails_its_own_request_only():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder)
        tasks = [ask(made, "9-first")]
        await in_the_model(encoder)
        tasks += [ask(made, "1-a"), ask(made, "2-a", "0-broken"), ask(made, "3-a")]
        await asyncio.sleep(0)
        encoder.let_go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await made.close()
        assert isinstance(found[2], ValueError)
        assert [rows[0][1] for n, rows in enumerate(found) if n != 2] == [9, 1, 3]

    asyncio.run(run())


def test_closing_waits_for_what_is_in_the_model():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder)
        first = ask(made, "1-a")
        await in_the_model(encoder)
        closing = asyncio.create_task(made.close())
        await asyncio.sleep(0)
        assert not closing.done()
        encoder.let_go.set()
        await closing
        assert (await first)[0][1] == 1

    asyncio.run(run())


def test_two_workers_run_two_batches_at_once():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, workers=2, max_texts=1)
        tasks = [ask(made, f"{n}-a") for n in range(3)]
        await in_the_model(encoder)
        while len(encoder.batches) < 2:
            await asyncio.sleep(0.001)
        assert made.waiting == 1
        encoder.let_go.set()
        await asyncio.gather(*tasks)
        await made.close()

    asyncio.run(run())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=1, max_size=12),
    max_texts=st.integers(1, 9),
    max_tokens=st.integers(1, 600),
    padding=st.floats(0, 2),
)
def test_every_text_is_encoded_once_within_the_bounds_and_comes_back_in_its_place(requests, max_texts, max_tokens, padding):
    async def run():
        encoder, seen = Encoder(), []
        made = batcher(encoder, seen, max_texts=max_texts, max_tokens=max_tokens, padding=padding)
        texts = [[f"{100 * n + m}-x" for m in range(len(lengths))] for n, lengths in enumerate(requests)]
        found = await asyncio.gather(*[ask(made, *each, lengths=lengths) for each, lengths in zip(texts, requests, strict=True)])
        await made.close()
        return texts, encoder.batches, seen, found

    texts, batches, seen, found = asyncio.run(run())
    length = {
        text: tokens for each, lengths in zip(texts, requests, strict=True) for text, tokens in zip(each, lengths, strict=True)
    }
    assert sorted(text for batch in batches for text in batch) == sorted(length)
    for each, rows in zip(texts, found, strict=True):
        assert rows.tolist() == [vector(text, "query", "uae") for text in each]
    for batch, told in zip(batches, seen, strict=True):
        tokens = [length[text] for text in batch]
        assert told.padded_tokens == len(batch) * max(tokens)
        assert len(batch) <= max_texts
        if len(batch) > 1:
            assert told.padded_tokens <= max_tokens
            assert told.padded_tokens - sum(tokens) <= 64 + padding * sum(tokens)


# Whatever the encoder does, every request ends.


def answering(answer):
    """A batcher over an encoder that gives ``answer(texts)``."""
    return MicroBatcher(lambda texts, kind, system: answer(texts), observe=[].append, **LIMITS)


def raising(error: BaseException):
    def answer(_):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda texts: np.ones((len(texts) - 1, 4), np.float32), r"given 1 texts and returned an array of shape \(0, 4\)"),
        (lambda texts: np.ones((len(texts) + 1, 4), np.float32), r"given 1 texts and returned an array of shape \(2, 4\)"),
        (lambda texts: np.ones(4, np.float32), r"returned an array of shape \(4,\)"),
        (lambda texts: None, "returned NoneType"),
        (lambda texts: np.full((len(texts), 4), np.nan, np.float32), "not finite"),
        (raising(ValueError("cannot read this")), "cannot read this"),
        (raising(StopIteration()), r"ended with StopIteration\(\)"),
        (raising(KeyboardInterrupt()), "ended with KeyboardInterrupt"),
        (raising(SystemExit(3)), r"ended with SystemExit\(3\)"),
    ],
    ids=["too few", "too many", "one vector", "none", "nan", "error", "StopIteration", "KeyboardInterrupt", "SystemExit"],
)
def test_every_request_ends_whatever_the_encoder_returns_or_raises(answer, reason):
    async def run():
        made = answering(answer)
        found = await asyncio.wait_for(asyncio.gather(ask(made, "1-a", "2-a"), ask(made, "3-a"), return_exceptions=True), 10)
        assert made.waiting == 0
        await asyncio.wait_for(made.close(), 10)
        return found

    for error in asyncio.run(run()):
        assert isinstance(error, Exception)
        with pytest.raises(type(error), match=reason):
            raise error


def test_vectors_of_different_lengths_are_refused_and_the_next_request_is_answered():
    async def run():
        made = answering(lambda texts: np.ones((len(texts), 3 if texts[0].startswith("9") else 4), np.float32))
        with pytest.raises(ArtefactError, match="different lengths"):
            await asyncio.wait_for(ask(made, "1-a", "9-much-longer", lengths=[3, 900]), 10)
        assert (await asyncio.wait_for(ask(made, "1-a"), 10)).shape == (1, 4)
        await made.close()

    asyncio.run(run())


def test_an_observer_that_fails_holds_up_nobody():
    async def run():
        made = MicroBatcher(Encoder(), observe=lambda batch: 1 / 0, **LIMITS | {"max_texts": 1})
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        found = await asyncio.wait_for(asyncio.gather(*[ask(made, f"{n}-a") for n in range(3)]), 10)
        await made.close()
        return found

    assert [rows[0][1] for rows in asyncio.run(run())] == [0, 1, 2]


def test_texts_without_lengths_and_no_texts_are_refused_at_once():
    async def run():
        made = batcher(Encoder())
        for texts, lengths in ((["1-a", "2-a"], [3]), ([], [])):
            with pytest.raises(ValueError, match="each text needs one"):
                await asyncio.wait_for(made.encode(texts, lengths, "query", "uae"), 10)
        await made.close()

    asyncio.run(run())


def test_closing_under_waiting_requests_tells_them_so():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_texts=1)
        first = ask(made, "1-a")
        await in_the_model(encoder)
        waiting = [ask(made, "2-a"), ask(made, "3-a", "4-a")]
        await asyncio.sleep(0)
        closing = asyncio.create_task(made.close())
        found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert [type(each) for each in found] == [Closed, Closed]
        encoder.let_go.set()
        await asyncio.wait_for(closing, 10)
        assert (await first)[0][1] == 1
        with pytest.raises(Closed):
            await ask(made, "5-a")

    asyncio.run(run())


def test_a_long_request_goes_in_pieces_and_lets_others_in_between():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_texts=4, max_waiting=5)  # less than the request has texts
        texts = [f"{n}-long" for n in range(12)]
        lengths = [100 - n for n in range(12)]
        long = ask(made, *texts, lengths=lengths)
        await in_the_model(encoder)
        other = ask(made, "99-x", lengths=[50])
        await asyncio.sleep(0)
        encoder.let_go.set()
        found, short = await asyncio.gather(long, other)
        await made.close()
        assert found.tolist() == [vector(text, "query", "uae") for text in texts]
        assert short[0][1] == 99
        assert encoder.batches[0] == [f"{n}-long" for n in range(11, 7, -1)]  # the shortest first
        assert "99-x" in encoder.batches[1]
        assert made.waiting == 0

    asyncio.run(run())


def test_a_long_request_that_is_cancelled_stops_between_its_pieces():
    async def run():
        encoder = Encoder(held=True)
        made = batcher(encoder, max_texts=2)
        long = ask(made, *[f"{n}-a" for n in range(20)])
        await in_the_model(encoder)
        long.cancel()
        await asyncio.wait([long])
        encoder.let_go.set()
        await asyncio.wait_for(ask(made, "50-b"), 10)
        await made.close()
        assert [len(batch) for batch in encoder.batches] == [2, 1]

    asyncio.run(run())
