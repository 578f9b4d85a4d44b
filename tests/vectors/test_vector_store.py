"""Vectors are computed once: whatever asks for them, in whatever order, however often a run is killed between."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uae.io.errors import ArtefactError
from uae.vectors import shards
from uae.vectors import store as module
from uae.vectors.shards import rows_of, shards_of
from uae.vectors.store import VectorStore

DIM = 3


class Encoder:
    """Counts what it is asked. Its vectors tell which text they are of."""

    def __init__(self, factor=1.0):
        self.factor, self.asked = factor, []

    def __call__(self, texts):
        self.asked += texts
        rows = [[len(text), sum(map(ord, text)), hash(text) % 1000] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(-1, DIM) * self.factor


def named(*numbers):
    return [f"passage {number}" for number in numbers]


@pytest.fixture
def store(tmp_path):
    return VectorStore(tmp_path / "vectors")


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    monkeypatch.setattr(module, "_FULL", 16)
    monkeypatch.setattr(module, "_SMALL", 3)


def test_only_what_is_missing_is_computed_and_order_and_copies_are_kept(store, tmp_path):
    first, second = Encoder(), Encoder()
    store.vectors_of("a", named(1, 2, 3), first)
    again = VectorStore(tmp_path / "vectors")
    texts = named(3, 9, 1, 9, 2)
    found = again.vectors_of("a", texts, second, tokens=lambda texts: 7 * len(texts))
    assert second.asked == named(9)
    assert np.array_equal(found, Encoder()(texts))
    assert found.dtype == np.float32
    assert again.counts() == {"vectors_found": 3, "vectors_embedded": 1, "vectors_embedded_tokens": 7}


def test_two_encoders_do_not_mix(store):
    store.vectors_of("a", named(1, 2), Encoder())
    other = Encoder(2.0)
    assert np.array_equal(store.vectors_of("b", named(1, 2), other), Encoder(2.0)(named(1, 2)))
    assert np.array_equal(store.vectors_of("a", named(1, 2), other), Encoder()(named(1, 2)))
    assert [(held.encoder, held.vectors) for held in store.held()] == [("a", 2), ("b", 2)]


def test_no_text_is_no_vector_and_keeps_nothing(store, tmp_path):
    assert store.vectors_of("a", [], Encoder()).shape == (0, DIM)
    assert list(tmp_path.iterdir()) == []
    assert store.held() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=25), min_size=1, max_size=12))
def test_whatever_is_asked_in_whatever_order_each_text_is_computed_once(tmp_path_factory, asked):
    with pytest.MonkeyPatch.context() as small:
        for name, value in (("_AT_ONCE", 4), ("_FULL", 16), ("_SMALL", 3)):
            small.setattr(module, name, value)
        store, encoder = VectorStore(tmp_path_factory.mktemp("any") / "vectors"), Encoder()
        for numbers in asked:
            assert np.array_equal(store.vectors_of("a", named(*numbers), encoder), Encoder()(named(*numbers)))
        assert sorted(encoder.asked) == sorted(set(named(*(number for numbers in asked for number in numbers))))
        # Few shards, however often something was added.
        assert len(shards_of(store.folder / "a")) <= 3 + 1 + len(encoder.asked) // 16


@pytest.mark.usefixtures("few_at_once")
def test_a_kill_loses_only_what_was_not_written(store):
    class Killed(Encoder):
        def __call__(self, texts):
            if len(self.asked) >= 8:
                raise KeyboardInterrupt
            return super().__call__(texts)

    with pytest.raises(KeyboardInterrupt):
        store.vectors_of("a", named(*range(20)), Killed())
    encoder = Encoder()
    store.vectors_of("a", named(*range(20)), encoder)
    assert sorted(encoder.asked) == sorted(named(*range(8, 20)))


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "empty"])
def test_a_damaged_shard_is_named_and_computed_again(store, caplog, damage):
    store.vectors_of("a", named(1, 2), Encoder())
    store.vectors_of("a", named(3), Encoder())
    shard = next(path for path in shards_of(store.folder / "a") if rows_of(path) == 2)
    content = shard.read_bytes()
    shard.write_bytes(
        {"cut": content[:60], "changed": content[:80] + b"x" + content[81:], "other": b"no shard", "empty": b""}[damage]
    )
    encoder = Encoder()
    with caplog.at_level(logging.WARNING):
        found = store.vectors_of("a", named(1, 2, 3), encoder)
    assert np.array_equal(found, Encoder()(named(1, 2, 3)))
    assert encoder.asked == named(1, 2)
    assert f"{shard} is damaged" in caplog.text
    VectorStore(store.folder).vectors_of("a", named(1, 2, 3), encoder)
    assert encoder.asked == named(1, 2)  # and is sound again


def test_a_shard_of_an_earlier_version_is_read(store):
    """All of it was one row group, and its keys were in the order of the texts."""
    texts = named(*range(9000))
    column = pa.FixedSizeListArray.from_arrays(pa.array(Encoder()(texts).reshape(-1)), DIM)
    keys = pa.array([hashlib.sha256(text.encode()).digest()[:16] for text in texts], pa.binary(16))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": keys, "vector": column}), sink, compression="none", use_dictionary=False)
    content = sink.getvalue().to_pybytes()
    path = store.folder / "a" / f"{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    encoder, asked = Encoder(), named(*range(8999, 4000, -7))
    assert np.array_equal(store.vectors_of("a", asked, encoder), Encoder()(asked))
    assert encoder.asked == []


def test_equal_content_has_equal_names(tmp_path):
    for name in ("one", "two"):
        VectorStore(tmp_path / name).vectors_of("a", named(1, 2), Encoder())
    assert [path.name for path in shards_of(tmp_path / "one" / "a")] == [path.name for path in shards_of(tmp_path / "two" / "a")]


@pytest.mark.usefixtures("few_at_once")
def test_sweeping_drops_what_nothing_uses(store):
    for encoder in ("a", "b"):
        store.vectors_of(encoder, named(*range(30)), Encoder())
    assert store.sweep({"a"}, iter(named(*range(5, 15), 99, 7))) == (50, 10)
    assert [held.encoder for held in store.held()] == ["a"]
    encoder = Encoder()
    assert np.array_equal(store.vectors_of("a", named(*range(5, 15)), encoder), Encoder()(named(*range(5, 15))))
    assert encoder.asked == []
    assert store.sweep({"a"}, set(named(*range(5, 15)))) == (0, 10)


def test_encoders_that_nobody_asked_for_longest_go(store, monkeypatch):
    monkeypatch.setattr(module, "_ENCODERS", 3)
    for age, name in enumerate("abc"):
        store.vectors_of(name, named(1), Encoder())
        os.utime(store.folder / name, (age, age))
    store.vectors_of("a", named(1), Encoder())  # asked for: it is the youngest now
    store.vectors_of("d", named(1), Encoder())
    assert [held.encoder for held in store.held()] == ["a", "c", "d"]


def test_a_full_disk_is_said_and_leaves_what_was_there(store, monkeypatch):
    store.vectors_of("a", named(1), Encoder())

    written = shards._write

    def full(target, *columns):
        if isinstance(target, Path):
            raise OSError(28, "No space left on device")
        written(target, *columns)

    with monkeypatch.context() as broken:
        broken.setattr(shards, "_write", full)
        with pytest.raises(ArtefactError, match=r"No space left.*Free some space"):
            store.vectors_of("a", named(1, 2), Encoder())
    encoder = Encoder()
    store.vectors_of("a", named(1), encoder)
    assert encoder.asked == []


TWO = """
import sys
from pathlib import Path
import numpy as np
from uae.vectors import store as module
from uae.vectors.store import VectorStore
module._AT_ONCE, module._FULL, module._SMALL = 4, 16, 3
texts = [f"passage {n}" for n in range(int(sys.argv[2]), 120)]
numbers = lambda some: np.array([[len(text), float(text[8:]), 1] for text in some], np.float32)
found = VectorStore(Path(sys.argv[1])).vectors_of("a", texts, numbers)
assert np.array_equal(found[:, 1], np.arange(int(sys.argv[2]), 120))
"""


def test_two_processes_may_write_at_once(tmp_path):
    runs = [subprocess.Popen([sys.executable, "-c", TWO, str(tmp_path / "vectors"), str(start)]) for start in (0, 40)]
    assert [run.wait() for run in runs] == [0, 0]
    found = VectorStore(tmp_path / "vectors").vectors_of("a", named(*range(120)), lambda texts: np.full((len(texts), DIM), -1.0))
    assert np.array_equal(found[:, 1], np.arange(120))
