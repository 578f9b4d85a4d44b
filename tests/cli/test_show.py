"""What is said at the end of the chain."""

import pytest

from uae.cli.show import _about, moved_since, over_untrained


def gain(mean: float, relative: bool = True, **more) -> dict:
    interval = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
    return {"absolute": interval, "relative": interval if relative else None, "p_value": 0.0004, "questions": 9} | more


@pytest.mark.parametrize(
    ("of_recall", "said"),
    [
        (gain(0.5), "Recall@1 0.400, +50.0% [+40.0%, +60.0%], p <0.001"),
        (gain(0.5, relative=False), "Recall@1 0.400, +0.500 [+0.400, +0.600], p <0.001"),
        (gain(0.5, by_document=gain(0.2, documents=3) | {"p_value": 0.25}), "Recall@1 0.400, +20.0% [+10.0%, +30.0%], p 0.250"),
    ],
)
def test_the_headline_is_told_against_what_needs_no_training_too(of_recall, said):
    systems = {"convex_base": {"recall@1": {"mean": 0.4}, "map": {"mean": 0.5}, "recall@7": {"mean": 1.0}}}
    gains = {"convex_base": {"uae": {"recall@1": of_recall, "map": gain(-0.1), "recall@7": gain(0.0)}}}
    told = over_untrained({"systems": systems, "gains_over": gains})
    assert told.endswith(f"(convex_base): {said}; MAP 0.500, -10.0% [-20.0%, +0.0%], p <0.001.")


def test_where_nothing_could_choose_its_form_nothing_is_said():
    assert over_untrained({"systems": {}, "gains_over": {"bm25": {}}}) is None


@pytest.mark.parametrize(
    ("promoted", "now", "said"),
    [
        (True, 2, None),
        (True, None, None),  # nobody knows
        (True, 1, "Since then 'champion' was moved: it is version 1 today."),
        (False, 1, None),
        (False, 3, "Since then 'champion' was moved: it is version 3 today."),
    ],
)
def test_the_end_of_a_run_tells_where_the_alias_is_now(promoted, now, said):
    told = moved_since({"alias": "champion", "version": 2, "champion": 1, "promoted": promoted}, now)
    assert told is None if said is None else told.startswith(said)


@pytest.mark.parametrize(
    ("questions", "documents", "said"),
    [
        (1, 1, "1 test question about 1 document"),
        (9, 2, "9 test questions about 2 documents"),
        (9, 0, "9 test questions about all documents"),
    ],
)
def test_one_document_is_no_plural(questions, documents, said):
    assert _about(questions, "test", documents) == said
