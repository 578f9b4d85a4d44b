"""Re-rankers against the plain way, one passage or one prompt at a time, and against a model that is never wrong."""

import copy
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from uae.evaluation.rerank import rerank_by_list, rerank_by_query_likelihood
from uae.io.errors import ConfigError, InputError, ModelError
from uae.teacher.engines.local import CausalTeacher, load_causal_lm
from uae.teacher.prompts import Template

TEMPLATE = Template("Passage: {passage}\n\n", "A question that it answers:", " {answer}")
PASSAGES = pd.DataFrame(
    {
        "passage_id": ["pe", "pc", "pa", "pd", "pb"],
        "text": [
            "The porter keeps the spare keys in a drawer.",
            "Every gasket is greased in spring.",
            "A worn gasket lets warm air in, and the alarm sounds.",
            "The night shift writes down the temperature every hour.",
            "Keys are returned at the gate before six.",
        ],
    }
)
QUESTIONS = pd.DataFrame(
    {
        "question_id": ["q2", "q1", "q3"],
        "text": ["Where are the spare keys?", "When is a gasket greased?", "Who has seen nothing?"],
    }
)
RANKINGS = {
    "q1": (["pd", "pb", "pe", "pa", "pc"], [0.9, 0.8, 0.6, 0.5, 0.1]),
    "q2": (["pa", "pb"], [0.7, 0.2]),
    "q3": ([], []),
}
TEXTS = dict(zip(PASSAGES["passage_id"], PASSAGES["text"], strict=True))
ASKED = dict(zip(QUESTIONS["question_id"], QUESTIONS["text"], strict=True))


@pytest.fixture(scope="module")
def loaded(tiny_lm):
    return load_causal_lm(tiny_lm, "cpu", "float32")


@pytest.fixture(scope="module")
def teacher(loaded):
    return CausalTeacher(*loaded, "f" * 64, 512, 1024, compile=False)


# By value


# By query likelihood


def plain_log_likelihood(model, tokenizer, question: str, passage: str) -> float:
    """Nats per token of the question."""
    lead = f"Passage: {passage}\n\nA question that it answers:"
    prompt, whole = (tokenizer(text)["input_ids"] for text in (lead, f"{lead} {question}"))
    with torch.inference_mode():
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logs[n - 1, whole[n]].item() for n in range(len(prompt), len(whole))) / (len(whole) - len(prompt))


@pytest.mark.parametrize("top", [1, 3, 5, 20])
def test_query_likelihood_equals_the_plain_way(loaded, teacher, top):
    found = rerank_by_query_likelihood(RANKINGS, QUESTIONS, PASSAGES, teacher, TEMPLATE, top)
    assert list(found) == list(RANKINGS)
    for question_id, (before, _) in RANKINGS.items():
        plain = {p: plain_log_likelihood(*loaded, ASKED[question_id], TEXTS[p]) for p in before[:top]}
        ids, scores = found[question_id]
        assert ids == [*sorted(plain, key=lambda p: -plain[p]), *before[top:]]
        assert scores[:top] == pytest.approx(sorted(plain.values(), reverse=True), abs=1e-5)
        assert scores == sorted(scores, reverse=True)
    changed = {question_id for question_id in RANKINGS if found[question_id][0] != RANKINGS[question_id][0]}
    assert changed or top == 1


def test_a_question_alone_is_ranked_as_in_company_and_only_the_top_is_read(teacher, monkeypatch):
    together = rerank_by_query_likelihood(RANKINGS, QUESTIONS, PASSAGES, teacher, TEMPLATE, 3)
    read = []
    plain = teacher.read
    monkeypatch.setattr(teacher, "read", lambda batch: read.extend(batch.pairs) or plain(batch))
    alone = rerank_by_query_likelihood({"q1": RANKINGS["q1"]}, QUESTIONS, PASSAGES, teacher, TEMPLATE, 3)
    assert alone["q1"][0] == together["q1"][0]
    assert sorted(pair.key[:2] for pair in read) == [("q1", "pb"), ("q1", "pd"), ("q1", "pe")]


# By a list


def recorded(model, monkeypatch) -> list[list[int]]:
    """The prompts that ``model`` is given from now on."""
    prompts = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda ids, **kwargs: prompts.append(ids[0].tolist()) or generate(ids, **kwargs))
    return prompts


def test_a_list_is_ordered_by_the_logits_of_its_letters(loaded, monkeypatch):
    model, tokenizer = loaded
    prompts = recorded(model, monkeypatch)
    found = rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, model, tokenizer, 4, 20)
    assert len(prompts) == 2  # one each; there is nothing to ask about no passage
    for prompt, (question_id, (before, _)) in zip(prompts, RANKINGS.items(), strict=False):
        text = tokenizer.decode(prompt)
        assert ASKED[question_id] in text
        assert re.findall(r"\[([A-Z])\] (.*)", text) == [
            (letter, TEXTS[passage_id]) for letter, passage_id in zip("ABCD", before[:4], strict=False)
        ]
        with torch.inference_mode():
            following = model(torch.tensor([prompt])).logits[0, -1]
        logits = {
            passage_id: following[tokenizer.convert_tokens_to_ids(letter)].item()
            for letter, passage_id in zip("ABCD", before[:4], strict=False)
        }
        assert found[question_id][0] == [*sorted(logits, key=lambda p: -logits[p]), *before[4:]]
    assert found["q1"][0] != RANKINGS["q1"][0]
    assert found["q1"][1] == [5, 4, 3, 2, 1]
    assert found["q3"] == ([], [])


def test_one_passage_is_not_asked_about(loaded, monkeypatch):
    prompts = recorded(loaded[0], monkeypatch)
    assert rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, *loaded, 1, 20)["q1"][0] == RANKINGS["q1"][0]
    assert prompts == []


def test_what_a_tokenizer_appends_to_a_text_is_left_out(loaded, monkeypatch):
    """Some models' tokenizers end every text with an end-of-text token: after it no letter would follow."""
    from tokenizers.processors import TemplateProcessing

    closing = copy.deepcopy(loaded[1])
    closing._tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    assert closing("a")["input_ids"][-1] == 1
    prompts = recorded(loaded[0], monkeypatch)
    usual = rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, *loaded, 4, 20)
    assert rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, loaded[0], closing, 4, 20) == usual
    assert prompts[:2] == prompts[2:]


class Oracle:
    """A model that reads the value of every passage in its prompt (``worth 7``) and prefers the letters of the most valuable."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, context: int = 1 << 20):
        self.tokenizer = tokenizer
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.seen: list[list[int]] = []  # the values in each prompt
        self.lengths: list[int] = []

    def generate(self, ids, **kwargs):
        text = self.tokenizer.decode(ids[0])
        values = {letter: int(worth) for letter, worth in re.findall(r"\[([A-Za-z])\] worth (\d+)", text)}
        self.seen.append(list(values.values()))
        self.lengths.append(ids.shape[1])
        logits = torch.full((1, len(self.tokenizer)), -1e9)
        for letter, worth in values.items():
            logits[0, self.tokenizer.convert_tokens_to_ids(letter)] = worth
        return SimpleNamespace(logits=(logits,))


@pytest.fixture
def roomy(tokenizer):
    """The tokenizer without a length of its own."""
    roomy = copy.deepcopy(tokenizer)
    roomy.model_max_length = 1 << 20
    return roomy


def valuable(*values: int, text: str = "") -> tuple[dict, pd.DataFrame]:
    """A ranking of passages with these values, and their table."""
    ids = [f"p{n:02}" for n in range(len(values))]
    table = pd.DataFrame({"passage_id": ids, "text": [f"worth {value}{text}" for value in values]})
    return {"q1": (ids, [1.0 - n / 100 for n in range(len(ids))])}, table


def slide(values: list[int], window: int) -> tuple[list[int], list[list[int]]]:
    """RankGPT's windows over values, half a window a step, and what each window saw."""
    values, seen, end = list(values), [], len(values)
    while True:
        start = max(end - window, 0)
        seen.append(values[start:end])
        values[start:end] = sorted(values[start:end], reverse=True)
        if start == 0:
            return values, seen
        end -= window // 2


@pytest.mark.parametrize("window", [2, 4, 6, 20])
def test_windows_slide_from_the_back_and_carry_the_best_to_the_front(roomy, window):
    values = [3, 11, 7, 2, 9, 1, 8, 5, 12, 4, 6, 10]
    rankings, passages = valuable(*values)
    oracle = Oracle(roomy)
    ids, _ = rerank_by_list(rankings, QUESTIONS, passages, oracle, roomy, 12, window)["q1"]
    expected, seen = slide(values, window)
    assert oracle.seen == seen
    assert [values[int(passage_id[1:])] for passage_id in ids] == expected
    assert expected[: window // 2] == sorted(values, reverse=True)[: window // 2]


def test_what_is_below_the_top_is_neither_shown_nor_moved(roomy):
    rankings, passages = valuable(3, 1, 2, 9, 8)
    oracle = Oracle(roomy)
    ids, scores = rerank_by_list(rankings, QUESTIONS, passages, oracle, roomy, 3, 20)["q1"]
    assert oracle.seen == [[3, 1, 2]]
    assert (ids, scores) == (["p00", "p02", "p01", "p03", "p04"], [5, 4, 3, 2, 1])


def test_equal_logits_are_ordered_by_id(roomy):
    rankings, passages = valuable(5, 5, 9, 5)
    rankings = {"q1": (rankings["q1"][0][::-1], rankings["q1"][1])}
    ids, _ = rerank_by_list(rankings, QUESTIONS, passages, Oracle(roomy), roomy, 20, 20)["q1"]
    assert ids == ["p02", "p00", "p01", "p03"]


@pytest.mark.parametrize("context", [220, 300, 350])
def test_windows_are_as_large_as_the_context_holds(roomy, context):
    values = [3, 11, 7, 2, 9, 1, 8, 5, 12, 4]
    rankings, passages = valuable(*values, text=", and that is said of the spare keys in the drawer.")
    oracle = Oracle(roomy, context)
    ids, _ = rerank_by_list(rankings, QUESTIONS, passages, oracle, roomy, 20, 20)["q1"]
    assert max(oracle.lengths) < context
    assert min(map(len, oracle.seen[:-1])) >= 2
    assert len(oracle.seen) > 1
    assert oracle.seen[0] == values[-len(oracle.seen[0]) :]  # from the back
    assert sorted(ids) == sorted(rankings["q1"][0])
    assert values[int(ids[0][1:])] == 12
    one_more = Oracle(roomy)
    last = list(passages["text"][-len(oracle.seen[0]) - 1 :])
    few = {"q1": ([f"p{n:02}" for n in range(len(last))], [0.0] * len(last))}
    table = pd.DataFrame({"passage_id": few["q1"][0], "text": last})
    rerank_by_list(few, QUESTIONS, table, one_more, roomy, 20, 20)
    assert one_more.lengths[0] >= context  # one passage more would not have fitted


def test_a_passage_of_which_not_two_fit_loses_its_end(roomy):
    rankings, passages = valuable(4, 6, 5, text=" and more of it" * 100)
    oracle = Oracle(roomy, 300)
    ids, _ = rerank_by_list(rankings, QUESTIONS, passages, oracle, roomy, 20, 20)["q1"]
    assert ids[0] == "p01"
    assert max(oracle.lengths) < 300
    assert oracle.seen == [[6, 5], [4, 6]]


def test_the_tokenizers_own_limit_counts_too(tokenizer):
    rankings, passages = valuable(*range(20), text=", and that is said of the spare keys in the drawer.")
    assert tokenizer.model_max_length == 512
    oracle = Oracle(tokenizer)
    rerank_by_list(rankings, QUESTIONS, passages, oracle, tokenizer, 20, 20)
    assert 300 < max(oracle.lengths) < 512


def test_a_question_that_leaves_no_room_is_named(roomy):
    rankings, passages = valuable(1, 2)
    with pytest.raises(InputError, match=r"'When is a gasket greased\?' leaves no room for two passages .* 60 tokens"):
        rerank_by_list(rankings, QUESTIONS, passages, Oracle(roomy, 60), roomy, 20, 20)


@pytest.mark.parametrize("window", [0, 1, 53])
def test_windows_that_cannot_be_lettered_are_refused(loaded, window):
    with pytest.raises(ConfigError, match=f"2 to 52 passages, not {window}"):
        rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, *loaded, 20, window)


def test_a_tokenizer_without_letters_is_refused(roomy):
    """As one that merges the bracket with the letter after it."""

    class Merging:
        model_max_length = 1 << 20

        def __call__(self, text, **kwargs):
            return {"input_ids": [hash(word) for word in text.split(" ")]}

    with pytest.raises(ModelError, match="for 0 letters only"):
        rerank_by_list(RANKINGS, QUESTIONS, PASSAGES, Oracle(roomy), Merging(), 20, 20)
