"""kill -9 at twenty random moments of real labelling: what is kept, what is asked again, and what the store ends up as."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from labelling import contents, write_corpus

from uae.io.files import read_json
from uae.teacher.parts import KEY
from uae.teacher.store import LabelStore

KILLS = 20
IN_FLIGHT = 2  # one for each of two workers
TOTAL = 20 + 20 * 5 + 6 + 6 * 5  # each question alone, with five passages; six of them under the check template too
HELPER = Path(__file__).with_name("killed_labelling.py")


@dataclass(frozen=True)
class Attempt:
    """A run of the label stage that was killed, or that ended."""

    round: str
    killed: bool
    before: set[tuple]  # keys in the store
    after: set[tuple]
    batches: list[list[tuple]]  # keys asked of the teacher

    @property
    def asked(self) -> list[tuple]:
        return [key for batch in self.batches for key in batch]


def batches(asked: Path) -> list[list[tuple]]:
    return [[tuple(key) for key in json.loads(line)] for line in asked.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_corpus(folder, questions=20, per_question=5, passages=20)
    return folder


@pytest.fixture(scope="module")
def told(folder, tiny_lm) -> dict:
    """What the helper did, in one process: uninterrupted runs, rounds of killed ones, two labellers at once."""
    # the helper must have no threads when it forks; how many its children have, it says itself
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(HELPER), str(folder), str(tiny_lm), str(KILLS), "13"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | single, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def attempts(told) -> list[Attempt]:
    found = []
    for _, of_round in itertools.groupby(told["attempts"], key=lambda attempt: attempt["round"]):
        before: set[tuple] = set()
        for attempt in of_round:
            after = LabelStore(Path(attempt["left"])).keys()
            found.append(Attempt(attempt["round"], attempt["killed"], before, after, batches(Path(attempt["asked"]))))
            before = after
    return found


def test_an_uninterrupted_run_repeats_to_the_byte(folder, told):
    whole = contents(folder / "whole")
    assert len(whole) > 3
    assert contents(folder / "warm") == whole
    assert len(LabelStore(folder / "whole").keys()) == TOTAL
    assert len(batches(folder / "whole.asked")) > 40  # so that kills can hit between batches


def test_kills_hit_running_labelling_at_many_places(attempts):
    kills = [attempt for attempt in attempts if attempt.killed]
    assert len(kills) == KILLS
    places = {len(attempt.after) for attempt in kills}
    assert len(places - {0, TOTAL}) >= 5, places
    assert any(attempt.batches and attempt.before for attempt in kills)  # one that had been resumed was hit again


def test_the_store_ends_up_as_if_nothing_had_happened(folder, attempts):
    ended = [attempt.round for attempt in attempts if not attempt.killed]
    assert ended
    for name in ended:
        assert contents(folder / name) == contents(folder / "whole")
        assert (folder / f"{name}.json").read_bytes() == (folder / "whole.json").read_bytes()


def test_no_reading_is_stored_twice(folder, attempts):
    assert read_json(folder / "whole.json")["provenances"][0]["readings"] == TOTAL
    for name in {attempt.round for attempt in attempts}:
        keys = [
            key
            for part in (folder / name).iterdir()
            for key in pq.read_table(part).select(KEY).to_pandas().itertuples(index=False)
        ]
        assert len(keys) == len(set(keys)) == TOTAL


def test_what_is_stored_is_never_asked_again(attempts):
    for attempt in attempts:
        assert not attempt.before & set(attempt.asked)
        assert len(attempt.asked) == len(set(attempt.asked))
        if not attempt.killed:
            assert len(attempt.asked) == TOTAL - len(attempt.before)
            assert len(attempt.after) == TOTAL


def test_a_kill_loses_nothing_stored_and_the_batches_in_flight_at_most(attempts):
    lost = []
    for attempt in attempts:
        assert attempt.before <= attempt.after
        assert attempt.after == attempt.before | (set(attempt.asked) & attempt.after)
        batches = [set(batch) - attempt.after for batch in attempt.batches]
        missing = [place for place, keys in enumerate(batches) if keys]
        assert all(batches[place] == set(attempt.batches[place]) for place in missing)  # whole batches, none in part
        lost.append(len(missing))
    assert 0 < max(lost) <= IN_FLIGHT


def test_resumed_runs_read_the_batches_that_an_uninterrupted_one_reads(folder, attempts):
    whole = {frozenset(batch) for batch in batches(folder / "whole.asked")}
    assert {frozenset(batch) for attempt in attempts for batch in attempt.batches} <= whole


def test_a_second_labeller_is_refused_and_the_first_unharmed(folder, told):
    assert "another labeller is writing to this store" in told["told"]
    assert contents(folder / "contested") == contents(folder / "whole")
    assert sorted(batches(folder / "first.asked")) == sorted(batches(folder / "whole.asked"))
