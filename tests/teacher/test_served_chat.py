"""The chat endpoint's teacher against the model itself, over real HTTP."""

import json
import math

import openai._base_client
import pytest
import torch
from fastapi.responses import Response
from labelling import asking, readings, run, write_corpus
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_like_server import VllmLikeServer

from uae.io.errors import ConfigError, ModelError
from uae.teacher.engines.served import ServedTeacher
from uae.teacher.engines.served_chat import ChatTeacher
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, Reading

NAME = "tiny-chat@1"
TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nOf use?", "{answer}", chat=True)
PASSAGES = ["The door seal of the cabinet is replaced every four years.", "Keys hang in the porter's lodge."]
GRADES = ("A", "B")
QUESTIONS = ["How often is the seal replaced?", "Where are the keys?"]


@pytest.fixture(scope="module")
def running(chat_lm):
    with VllmLikeServer(chat_lm, NAME) as server:
        yield server


@pytest.fixture(scope="module")
def more_likely(running):
    """A change of the logits: the model mostly answers A or B, as a judge would, with or without a space in front."""
    tokens = [token for token in range(len(running.tokenizer)) if running.tokenizer.decode([token]).strip() in GRADES]
    assert len(tokens) > len(GRADES)
    return lambda logits: logits.index_add(-1, torch.tensor(tokens), torch.full((*logits.shape[:-1], len(tokens)), 30.0))


@pytest.fixture
def server(running, more_likely):
    running.reset()
    running.change_logits = more_likely
    return running


@pytest.fixture
def no_pauses(monkeypatch):
    """Between the client's retries."""
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0)


@pytest.fixture(scope="module")
def plain(chat_lm, more_likely):
    """The 20 likeliest first tokens with their log-probs, by transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(chat_lm).eval(), AutoTokenizer.from_pretrained(chat_lm)

    def first(pair: Pair) -> list[tuple[str, float]]:
        said = [{"role": "user", "content": f"Passage: {pair.passage}\n\nQuestion: {pair.question}\nOf use?"}]
        prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, enable_thinking=False, return_dict=False)
        with torch.inference_mode():
            top = more_likely(model(torch.tensor([prompt])).logits)[0, -1].log_softmax(-1).topk(20)
        return [
            (tokenizer.decode([token]), value) for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    return first


@pytest.fixture
def make(server):
    def build(**changes) -> ChatTeacher:
        settings = {"url": server.url, "model": NAME, "api_key": None, "concurrency": 4, "timeout_s": 20.0, "batch_pairs": 4}
        return ChatTeacher(**settings | {"top_logprobs": 20, "grades": GRADES} | changes)

    return build


def pairs(grades=GRADES) -> list[Pair]:
    return [
        Pair((str(q), str(p), grade, "", ""), QUESTIONS[q], grade, PASSAGES[p])
        for p in range(len(PASSAGES))
        for q in range(len(QUESTIONS))
        for grade in grades
    ]


def read(engine: ChatTeacher, work: list[Pair]) -> dict[tuple, Reading]:
    return {reading.key: reading for batch in engine.plan(TEMPLATE, work) for reading in engine.read(batch)}


@pytest.mark.parametrize(("batch_pairs", "concurrency"), [(1, 1), (3, 2), (100, 8)])
def test_values_are_those_of_the_model_itself(make, plain, batch_pairs, concurrency):
    got = read(make(batch_pairs=batch_pairs, concurrency=concurrency), pairs())
    assert len(got) == 8
    for pair in pairs():
        same = [math.exp(value) for token, value in plain(pair) if token.strip() == pair.answer]
        assert got[pair.key] == (pair.key, pytest.approx(-math.log(sum(same)), abs=1e-4), 1, False)


def test_one_request_gives_all_grades_of_a_pair(make, server):
    read(make(), pairs())
    requests = server.requests("/v1/chat/completions")
    assert len(requests) == len(server.seen) == 4  # nothing else of the server is needed
    assert {
        "model": NAME, "messages": [{"role": "user", "content": f"Passage: {PASSAGES[0]}\n\nQuestion: {QUESTIONS[0]}\nOf use?"}],
        "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20,
    } in [request.body for request in requests]  # fmt: skip


def test_the_plan_keeps_grades_together_and_says_that_it_estimates(make, server):
    batches = make(batch_pairs=3).plan(TEMPLATE, pairs())
    assert [len(batch.pairs) for batch in batches] == [2, 2, 2, 2]
    assert [pair for batch in batches for pair in batch.pairs] == pairs()
    assert all(batch.estimated and batch.full_tokens == 2 * batch.tokens > 0 for batch in batches)
    assert make(batch_pairs=3).plan(TEMPLATE, pairs()) == batches
    assert server.seen == []


def test_a_pool_is_labelled_and_judged(make, server, tmp_path):
    """From the tables to the label store, as the label stage does it."""
    write_corpus(tmp_path, questions=4, per_question=3)
    judge = {"method": "judgement", "grades": GRADES, "templates": (TEMPLATE,)}
    run(tmp_path, asking(make(), **judge))
    table = readings(tmp_path / "labels")
    assert len(table) == 4 * 3 * 2
    assert (table["n_tokens"] == 1).all()
    asked = len(server.requests("/v1/chat/completions"))
    assert asked == 4 * 3
    run(tmp_path, asking(make(), **judge))
    assert len(server.requests("/v1/chat/completions")) == asked  # nothing is paid for twice


def test_what_is_not_among_the_likeliest_counts_as_the_least_of_them(make, plain, caplog):
    work = pairs(("A", "zebra"))
    got = read(make(grades=("A", "zebra")), work)
    for pair in work[1::2]:
        assert got[pair.key].nll_sum == pytest.approx(-plain(pair)[-1][1], abs=1e-4)
    assert "2 of 4 grades were not among the 20 likeliest first tokens" in caplog.text


def test_answers_that_begin_with_no_grade_are_an_error(make):
    with pytest.raises(
        ModelError, match=r"no answer of 'tiny-chat@1' begins with a grade \('zebra', 'gnu'\); the likeliest first"
    ):
        read(make(grades=("zebra", "gnu")), pairs(("zebra", "gnu")))


def test_a_grade_of_several_tokens_is_an_error(make):
    with pytest.raises(ModelError, match=r"says the grade 'Bland' in several tokens \('B' and more\).*take grades of one token"):
        read(make(grades=("A", "Bland")), pairs(("A", "Bland")))


def without(*path):
    """A change of the answer's JSON: what lies at ``path`` is null."""

    def change(answer: dict) -> dict:
        place = answer
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = None
        return answer

    return change


@pytest.mark.parametrize(
    "path",
    [
        ("choices", 0, "logprobs"),
        ("choices", 0, "logprobs", "content"),
        ("choices", 0, "logprobs", "content", 0),
        ("choices", 0, "logprobs", "content", 0, "top_logprobs"),
    ],
    ids=["logprobs", "content", "token", "top_logprobs"],
)
def test_missing_log_probs_are_an_error(make, server, path):
    server.change_answer = without(*path)
    with pytest.raises(
        ModelError, match=r"sends no log-probs with its answers, for the question 'How often.*logprobs and top_lo"
    ):
        read(make(), pairs())


def test_a_service_that_refuses_log_probs_is_an_error_with_its_own_words(make, server):
    server.refusals = [(400, "logprobs are not supported with reasoning models")] * 9
    with pytest.raises(ModelError, match=r"answers 400 for the question 'How often.*not supported with reasoning models"):
        read(make(), pairs())


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "likely"])
def test_what_is_no_number_is_an_error(make, server, value):
    def change(answer):
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][3]["logprob"] = value
        return Response(json.dumps(answer), media_type="application/json")

    server.change_answer = change
    with pytest.raises(ModelError, match=f"gives {value} for the question"):
        read(make(), pairs())


def test_a_probability_above_1_is_an_error(make, server):
    def change(answer):
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = 0.25
        return answer

    server.change_answer = change
    with pytest.raises(ModelError, match=r"log-probability 0\.25 for the question"):
        read(make(), pairs())


def test_clamped_tokens_have_no_probability(make, server):
    def change(answer):
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][-1]["logprob"] = -9999.0
        return answer

    server.change_answer = change
    assert max(reading.nll_sum for reading in read(make(grades=("A", "zebra")), pairs(("A", "zebra"))).values()) < 100


def test_a_busy_server_is_asked_again(make, server, no_pauses):
    expected = read(make(), pairs()[:2])
    server.seen.clear()
    server.refusals = [(429, "slow down"), (503, "overloaded")]
    assert read(make(), pairs()[:2]) == expected
    assert len(server.requests("/v1/chat/completions")) == 3


def test_a_server_that_stays_busy_is_a_passing_error(make, server, no_pauses):
    server.refusals = [(429, "slow down")] * 99
    with pytest.raises(ModelError, match=r"answers 429 \(6 times in a row\) for the question") as caught:
        read(make(), pairs()[:2])
    assert caught.value.transient


def test_requests_are_in_flight_at_once(make, server):
    server.wait_for = 3
    read(make(concurrency=3, batch_pairs=100), pairs())
    assert server.peak == 3


@pytest.mark.parametrize(
    ("key", "said"), [(None, "asks for an API key"), ("sk-wrong-2", "refuses the API key")], ids=["none", "wrong"]
)
def test_a_key_that_does_not_fit_is_an_error(chat_lm, make, more_likely, key, said):
    with VllmLikeServer(chat_lm, NAME, api_key="sk-secret-1") as guarded:
        guarded.change_logits = more_likely
        with pytest.raises(ModelError, match=rf"{said} \(401\): .*UAE_TEACHER_API_KEY") as caught:
            read(make(url=guarded.url, api_key=key), pairs())
        assert len(read(make(url=guarded.url, api_key="sk-secret-1"), pairs())) == 8
    assert "sk-wrong-2" not in str(caught.value)


def test_an_address_without_the_endpoint_is_an_error(make):
    with pytest.raises(ModelError, match=r"answers 404 .*whose /v1/chat/completions is needed, and the model 'gross' be served"):
        read(make(model="gross"), pairs())


def test_an_address_that_is_none_is_an_error(make):
    with pytest.raises(ConfigError, match="must look like http"):
        make(url="localhost:8000")


def test_a_prompt_beyond_the_context_is_an_error_with_the_servers_words(make):
    work = [Pair((grade,) * 5, QUESTIONS[0], grade, "word " * 600) for grade in GRADES]
    with pytest.raises(ModelError, match=r"answers 400 for the question .*maximum context length is 512 tokens"):
        read(make(), work)


def test_provenance_says_who_answered_and_no_secret(make, server):
    engine = make(api_key="sk-secret-1")
    read(engine, pairs())
    shown = engine.provenance()
    assert shown == {
        "backend": "openai-compatible chat", "server": server.url, "model": NAME, "answered_as": NAME, "top_logprobs": 20,
        "concurrency": 4, "batch_pairs": 4, "openai": openai.__version__,
    }  # fmt: skip


def test_readings_of_the_two_endpoints_never_mix(make, server):
    other = ServedTeacher(url=server.url, model=NAME, api_key=None, concurrency=4, timeout_s=20.0, batch_pairs=4)
    assert make().fingerprint != other.fingerprint
    assert make(url="http://elsewhere:8000").fingerprint == make().fingerprint != make(model="tiny-chat@2").fingerprint
