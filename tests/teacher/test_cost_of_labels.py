"""What labelling would cost: the numbers are those that labelling then has, and nothing is kept of the trial."""

import pytest
from labelling import CHECK, OTHER, TEMPLATE, CountingTeacher, asking, contents, run, tables, write_corpus

from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, read_table, write_table
from uae.teacher import cost as module
from uae.teacher import label as label_module
from uae.teacher.asking import Asked
from uae.teacher.cost import labelling_cost
from uae.teacher.engines.local import load_teacher

ALL = 12 + 12 * 6


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path)
    return tmp_path


def cost(folder, *teachers: Asked, calibration_s: float = 0.0, **changes) -> list[dict]:
    amounts = {"answers_per_question": 1, "check_questions": 0} | changes
    return labelling_cost(
        **tables(folder), store_path=folder / "labels", teachers=teachers, calibration_s=calibration_s, **amounts
    )


def planned_batches(folder) -> list:
    """The batches that a teacher that counts is asked for, all in one window."""
    seen: list = []

    class Noted(CountingTeacher):
        def read(self, batch):
            seen.append(batch)
            return super().read(batch)

    run(folder, asking(Noted()), store="elsewhere")
    return seen


class Passed(CountingTeacher):
    """Counts the tokens that it was given to read."""

    tokens = 0

    def read(self, batch):
        self.tokens += batch.tokens
        return super().read(batch)


def test_the_numbers_are_those_that_labelling_then_has(corpus):
    changes = {"answers_per_question": 2, "check_questions": 3}
    (found,) = cost(corpus, asking(CountingTeacher(), check_templates=(CHECK,)), **changes)
    teacher = Passed()
    done = run(corpus, asking(teacher, check_templates=(CHECK,)), **changes)
    assert found["readings"] == done["readings_asked_now"] == 2 * (ALL + 3 + 18)
    assert (found["stored"], found["exact"]) == (0, True)
    assert found["tokens"] == teacher.tokens
    assert found["full_tokens"] == 3 * teacher.tokens
    assert (found["teacher"], found["backend"]) == ("main", "counting")
    assert found["tokens_per_s"] > 0


def test_what_is_stored_is_not_planned_again(corpus):
    run(corpus, asking(CountingTeacher()))
    (found,) = cost(corpus, asking(CountingTeacher(), templates=(TEMPLATE, OTHER)))
    assert (found["readings"], found["stored"]) == (ALL, ALL)
    teacher = Passed()
    run(corpus, asking(teacher, templates=(TEMPLATE, OTHER)))
    assert found["tokens"] == teacher.tokens


def test_half_finished_labelling_is_planned_to_its_end(corpus):
    """Candidates that came later: their windows are partly done."""
    whole = read_table(corpus / "candidates.parquet", CANDIDATES)
    write_table(corpus / "candidates.parquet", CANDIDATES, whole[whole["rank"] % 2 == 0])
    run(corpus, asking(CountingTeacher()))
    write_table(corpus / "candidates.parquet", CANDIDATES, whole)
    (found,) = cost(corpus, asking(CountingTeacher()))
    assert (found["readings"], found["stored"]) == (36, 12 + 36)
    teacher = Passed()
    assert run(corpus, asking(teacher))["readings_asked_now"] == 36
    assert found["tokens"] == teacher.tokens


def test_planning_keeps_nothing(corpus):
    before = sorted(corpus.iterdir())
    cost(corpus, asking(CountingTeacher()))
    assert sorted(corpus.iterdir()) == before
    run(corpus, asking(CountingTeacher()))
    stored = contents(corpus / "labels")
    cost(corpus, asking(CountingTeacher("e" * 64)))
    assert contents(corpus / "labels") == stored


def test_where_all_is_done_no_teacher_is_loaded(corpus):
    run(corpus, asking(CountingTeacher()))
    teacher = CountingTeacher()
    (found,) = cost(corpus, asking(teacher))
    assert found == {
        "teacher": "main", "readings": 0, "stored": ALL, "tokens": 0, "full_tokens": 0, "seconds": None, "memory_mb": None,
    }  # fmt: skip
    assert teacher.opened == 0


def test_several_teachers_have_an_entry_each(corpus):
    run(corpus, asking(CountingTeacher()))
    judge = asking(CountingTeacher("e" * 64), name="judge", method="judgement", grades=("no", "yes"))
    found = cost(corpus, asking(CountingTeacher()), judge)
    assert [(entry["teacher"], entry["readings"], entry["stored"]) for entry in found] == [("main", 0, ALL), ("judge", 144, 0)]


def test_the_speed_is_measured_as_long_as_asked_and_no_batch_twice(corpus):
    """The first batch once more: its first reading, which warms the engine up, does not count."""
    short, long = CountingTeacher(), CountingTeacher()
    cost(corpus, asking(short), calibration_s=0.0)
    assert len(short.asked) == 2 * 5
    cost(corpus, asking(long), calibration_s=1e6)
    assert len(long.asked) == ALL + 5
    assert {pair.key for pair in long.asked[5:]} == {pair.key for pair in long.asked}


def test_the_speed_is_tokens_by_time(corpus, monkeypatch):
    """A clock that moves a second a batch: the mean batch's tokens are the speed, the number of batches is the time."""
    teacher = CountingTeacher()
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    (found,) = cost(corpus, asking(teacher), calibration_s=1e6)
    batches = -(-ALL // 5)
    assert found["calibrated_on_s"] == batches + 1  # the clock is also looked at in the end
    assert found["tokens_per_s"] == pytest.approx(found["tokens"] / (batches + 1), abs=0.05)
    assert found["seconds"] == batches + 1


def test_memory_is_that_of_the_largest_batch(corpus):
    class Shrinking(CountingTeacher):
        def memory_mb(self, batch):
            return batch.tokens

    teacher = Shrinking()
    (found,) = cost(corpus, asking(teacher), calibration_s=1e6)
    run(corpus, asking(passed := Passed()))
    sizes = [batch.tokens for batch in passed.plan(TEMPLATE, passed.asked)]
    assert found["memory_mb"] == max(sizes)


def test_of_many_windows_some_are_tokenised_and_the_rest_taken_to_be_like_them(corpus, monkeypatch):
    monkeypatch.setattr(label_module, "WINDOW_PAIRS", 6)  # the questions alone, two times; then a window a passage
    monkeypatch.setattr(module, "_WINDOWS", 4)
    planned = []

    class Watched(CountingTeacher):
        def plan(self, template, pairs):
            planned.extend(pairs)
            return super().plan(template, pairs)

    (found,) = cost(corpus, asking(Watched()))
    run(corpus, asking(whole := Passed()))
    assert 0 < len(planned) < ALL / 2
    assert (found["readings"], found["exact"]) == (ALL, False)
    assert found["tokens"] == pytest.approx(whole.tokens, rel=0.2)
    assert found["full_tokens"] == pytest.approx(3 * found["tokens"], abs=2)


def test_a_real_teacher_reads_the_planned_tokens(corpus, tiny_lm):
    fingerprint = "f" * 64
    passed = []

    def load():
        teacher = load_teacher(tiny_lm, fingerprint, "cpu", "float32", 512, 1024, False)
        forward = teacher.model.forward
        teacher.model.forward = lambda **kw: passed.append(kw["input_ids"].numel()) or forward(**kw)
        return teacher

    asked = Asked("main", fingerprint, "answer_likelihood", (), 1.0, (TEMPLATE,), (CHECK,), load)
    (found,) = cost(corpus, asked, check_questions=2)
    passed.clear()
    run(corpus, asked, check_questions=2)
    assert found["tokens"] == sum(passed)
    assert found["full_tokens"] > 2 * found["tokens"]  # what sharing saves
    assert found["memory_mb"] > 0
    assert found["device"] == "cpu"


def test_a_damaged_store_is_an_error(corpus):
    run(corpus, asking(CountingTeacher()))
    part = min((corpus / "labels").glob("*.parquet"))
    part.write_bytes(b"PAR1")
    with pytest.raises(ArtefactError, match=part.name):
        cost(corpus, asking(CountingTeacher()))


def test_a_stage_that_has_not_run_is_an_error(tmp_path):
    with pytest.raises(ArtefactError, match=r"candidates\.parquet does not exist"):
        cost(tmp_path, asking(CountingTeacher()))


def test_more_workers_take_less_until_there_are_more_than_batches(corpus, monkeypatch):
    """17 batches of 5 pairs: with 32 workers the longest batch alone takes its time."""
    monkeypatch.setattr(module, "_calibrate", lambda teacher, batches, seconds: (100.0, 1.0))  # tokens a second
    (found,) = cost(corpus, asking(CountingTeacher()))
    batches = [batch.tokens for batch in planned_batches(corpus)]
    assert (found["workers_measured"], len(batches)) == (1, 17)
    by_workers = found["seconds_by_workers"]
    assert by_workers[1] == found["seconds"] == round(sum(batches) / 100, 1)
    assert by_workers[2] == pytest.approx(by_workers[1] / 2, rel=0.1)
    assert by_workers[32] == round(max(batches) / 100, 1)
    assert list(by_workers.values()) == sorted(by_workers.values(), reverse=True)


def test_workers_that_were_measured_together_are_told_apart(corpus, monkeypatch):
    """Four processes that read two batches each at 800 tokens a second: one of them has 200."""
    monkeypatch.setattr(module, "_calibrate", lambda teacher, batches, seconds: (800.0, 1.0))

    class Spread(CountingTeacher):
        processes = 4

        def read_all(self, batches):
            return ((batch, self.read(batch)) for batch in batches)

    teacher = Spread()
    teacher.workers = 8
    (found,) = cost(corpus, asking(teacher))
    assert found["workers_measured"] == 4
    assert found["seconds_by_workers"][1] == pytest.approx(found["tokens"] / 200, rel=0.1)
    assert found["seconds_by_workers"][1] > 3 * found["seconds_by_workers"][4]


def test_a_server_has_its_own_workers(corpus):
    class Served(CountingTeacher):
        def memory_mb(self, batch):
            return None

    (found,) = cost(corpus, asking(Served()))
    assert found["seconds_by_workers"] is None
