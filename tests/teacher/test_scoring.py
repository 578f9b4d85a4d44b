"""The shared-prefix scorer against the plain way: one pair at a time, full prompt, no cache, no padding."""

import random

import pytest
import torch

from uae.errors import InputError, ModelError
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.scoring import CausalTeacher, load_causal_lm

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")
PASSAGES = [
    "The door seal of the cabinet is replaced every four years, or at once when it is torn.",
    "Keys hang in the porter's lodge.",
    "On the coast the filter is washed monthly; inland {twice} a year, the handbook says, is enough for most sites.",
]
QUESTIONS = [
    "How often is the seal replaced?",
    "Where are the keys?",
    "When must the filter on the coast be washed, and who says so?",
]
ANSWERS = ["every four years", "in the porter's lodge", "monthly"]


def pairs() -> list[Pair]:
    combined = [(p, q) for p in [None, *PASSAGES] for q in range(3)]
    return [Pair((str(p)[:9], q), QUESTIONS[q], ANSWERS[q], p) for p, q in combined]


def read(teacher: CausalTeacher, work: list[Pair]) -> dict:
    return {reading.key: reading for group in teacher.read(work) for reading in group}


@pytest.fixture(scope="module")
def loaded(tiny_lm):
    return load_causal_lm(tiny_lm, "cpu", "float32")


def plain_nll(model, tokenizer, pair: Pair) -> tuple[float, int]:
    prompt = tokenizer(TEMPLATE.prompt(pair.question, pair.passage))["input_ids"]
    whole = tokenizer(TEMPLATE.prompt(pair.question, pair.passage) + TEMPLATE.completion(pair.answer))["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    positions = range(len(prompt), len(whole))
    return -sum(logits[i - 1, whole[i]].item() for i in positions), len(positions)


def test_equals_one_pair_at_a_time_without_cache_or_padding(loaded):
    got = read(CausalTeacher(*loaded, TEMPLATE, batch_tokens=4096), pairs())
    for pair in pairs():
        nll, count = plain_nll(*loaded, pair)
        assert got[pair.key].n_tokens == count
        assert got[pair.key].nll_sum / count == pytest.approx(nll / count, abs=1e-5)


@pytest.mark.parametrize("budget", [1, 100, 250, 100_000])
def test_batch_size_and_order_change_nothing(loaded, budget):
    expected = read(CausalTeacher(*loaded, TEMPLATE, batch_tokens=4096), pairs())
    shuffled = pairs()
    random.Random(budget).shuffle(shuffled)
    shuffled.sort(key=lambda pair: str(pair.passage))  # pairs of a passage must stand together
    got = read(CausalTeacher(*loaded, TEMPLATE, batch_tokens=budget), shuffled)
    for key, reading in expected.items():
        assert got[key].nll_sum / reading.n_tokens == pytest.approx(reading.nll_sum / reading.n_tokens, abs=1e-5)


def test_a_pair_alone_equals_the_pair_in_company(loaded):
    teacher = CausalTeacher(*loaded, TEMPLATE, batch_tokens=4096)
    together = read(teacher, pairs())
    for pair in pairs():
        alone = read(teacher, [pair])[pair.key]
        assert alone.nll_sum == pytest.approx(together[pair.key].nll_sum, abs=1e-4)


def test_prompts_share_their_prefix_in_one_forward_pass(loaded, monkeypatch):
    model, tokenizer = loaded
    tokens = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **kw: tokens.append(ids.numel()) or forward(ids, **kw))
    work = [Pair((q,), question, "in the lodge", PASSAGES[2]) for q, question in enumerate(QUESTIONS)]
    read(CausalTeacher(model, tokenizer, TEMPLATE, batch_tokens=4096), work)
    passage_tokens = len(tokenizer(PASSAGES[2])["input_ids"])
    assert len(tokens) == 2
    assert tokens[0] > passage_tokens  # the passage, once
    assert tokens[1] < 3 * passage_tokens  # the three questions without it


def test_long_passage_loses_its_beginning_and_says_so(loaded):
    model, tokenizer = loaded
    long = "Filler about nothing in particular. " * 60 + "The keys hang in the porter's lodge."
    reading = read(CausalTeacher(model, tokenizer, TEMPLATE, 4096), [Pair((0,), QUESTIONS[1], ANSWERS[1], long)])[(0,)]
    assert reading.truncated
    assert reading.n_tokens == len(tokenizer(TEMPLATE.completion(ANSWERS[1]))["input_ids"])


def test_short_passage_is_not_truncated(loaded):
    assert not any(r.truncated for r in read(CausalTeacher(*loaded, TEMPLATE, 4096), pairs()).values())


def test_answer_without_tokens_is_an_error(loaded):
    template = Template(TEMPLATE.passage, TEMPLATE.question, "{answer}")
    with pytest.raises(InputError, match="has no tokens"):
        read(CausalTeacher(*loaded, template, 4096), [Pair((0,), "Where?", "", None)])


def test_question_longer_than_the_context_is_an_error(loaded):
    with pytest.raises(InputError, match="exceed the teacher's 512 tokens"):
        read(CausalTeacher(*loaded, TEMPLATE, 4096), [Pair((0,), "why " * 600, "so", PASSAGES[0])])


def test_answer_merging_with_the_prompt_is_an_error(loaded):
    model, tokenizer = loaded
    template = Template("{passage} ", "{question} An", "{answer}")
    merging = next(
        word for word in ("swer", "d", "y", "other", "n", "t")
        if tokenizer("x An" + word)["input_ids"][: len(tokenizer("x An")["input_ids"])] != tokenizer("x An")["input_ids"]
    )  # fmt: skip
    with pytest.raises(ModelError, match="merges the prompt's end"):
        read(CausalTeacher(model, tokenizer, template, 4096), [Pair((0,), "x", merging, None)])


def test_nan_is_an_error(loaded, monkeypatch):
    model, tokenizer = loaded
    forward = model.forward

    def poisoned(ids, **kwargs):
        output = forward(ids, **kwargs)
        output.logits = output.logits * float("nan")
        return output

    monkeypatch.setattr(model, "forward", poisoned)
    with pytest.raises(ModelError, match="nan"):
        read(CausalTeacher(model, tokenizer, TEMPLATE, 4096), pairs()[:1])
