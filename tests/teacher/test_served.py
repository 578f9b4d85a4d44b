"""The served teacher against the model itself, through a server that answers as vLLM does."""

import json
import math
import random
import socket

import openai._base_client
import pytest
import torch
from fastapi.responses import HTMLResponse, Response
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_like_server import VERSION, VllmLikeServer

from uae.io.errors import ConfigError, InputError, ModelError
from uae.teacher.engines import client
from uae.teacher.engines.served import ServedTeacher
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, Reading

NAME = "tiny@1"
TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")
PASSAGES = [
    "The door seal of the cabinet is replaced every four years, or at once when it is torn.",
    "Keys hang in the porter's lodge.",
    "On the coast the filter is washed monthly; inland {twice} a year, the handbook says, is enough for most sites.",
]
QUESTIONS = ["How often is the seal replaced?", "Where are the keys?", "When must the filter on the coast be washed?"]
ANSWERS = ["every four years", "in the porter's lodge", "monthly"]
LONG = "Filler about nothing in particular. " * 60 + "The keys hang in the porter's lodge."


@pytest.fixture(scope="module")
def running(tiny_lm):
    with VllmLikeServer(tiny_lm, NAME) as server:
        yield server


@pytest.fixture
def server(running):
    running.reset()
    return running


@pytest.fixture
def guarded(tiny_lm):
    with VllmLikeServer(tiny_lm, NAME, api_key="sk-secret-1") as server:
        yield server


@pytest.fixture
def no_pauses(monkeypatch):
    """Between the client's retries."""
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0)


@pytest.fixture(scope="module")
def plain(tiny_lm):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm).eval(), AutoTokenizer.from_pretrained(tiny_lm)

    def nll(prompt: str, answer: str) -> tuple[float, int]:
        start, whole = len(tokenizer(prompt)["input_ids"]), tokenizer(prompt + answer)["input_ids"]
        with torch.inference_mode():
            log_probs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return -sum(log_probs[i - 1, whole[i]].item() for i in range(start, len(whole))), len(whole) - start

    nll.tokenizer = tokenizer
    return nll


def teacher(server: VllmLikeServer, **changes) -> ServedTeacher:
    settings = {"url": server.url, "model": NAME, "api_key": None, "concurrency": 4, "timeout_s": 20.0, "batch_pairs": 5}
    return ServedTeacher(**settings | changes)


def pair(question: str, answer: str, passage: str | None, key: str = "q") -> Pair:
    return Pair((key, "", "", "", ""), question, answer, passage)


def pairs() -> list[Pair]:
    """With and without passages, and a second answer to every question."""
    return [
        Pair((str(q), str(p), str(a), "t", "m"), QUESTIONS[q], ANSWERS[a], passage)
        for p, passage in enumerate([None, *PASSAGES])
        for q in range(3)
        for a in (q, (q + 1) % 3)
    ]


def read(engine: ServedTeacher, work: list[Pair], template: Template = TEMPLATE) -> dict[tuple, Reading]:
    return {reading.key: reading for batch in engine.plan(template, work) for reading in engine.read(batch)}


def one(server: VllmLikeServer, **changes) -> Reading:
    return read(teacher(server, **changes), pairs()[:1])[pairs()[0].key]


def test_values_are_those_of_the_model_itself(server, plain):
    got = read(teacher(server), pairs())
    assert len(got) == len(pairs())
    for item in pairs():
        nll, count = plain(TEMPLATE.prompt(item.question, item.passage), TEMPLATE.completion(item.answer))
        reading = got[item.key]
        assert reading.n_tokens == count
        assert reading.nll_sum == pytest.approx(nll, abs=1e-4)
        assert not reading.truncated


@pytest.mark.parametrize(("batch_pairs", "concurrency"), [(1, 1), (3, 8), (1000, 2)])
def test_batches_order_and_concurrency_change_nothing(server, batch_pairs, concurrency):
    expected = read(teacher(server), pairs())
    shuffled = pairs()
    random.Random(batch_pairs).shuffle(shuffled)
    got = read(teacher(server, batch_pairs=batch_pairs, concurrency=concurrency), shuffled)
    assert got.keys() == expected.keys()
    for key, reading in expected.items():
        assert got[key] == (key, pytest.approx(reading.nll_sum, abs=1e-5), reading.n_tokens, reading.truncated)


def test_the_plan_is_the_same_again_and_counts_what_the_server_computes(server, plain):
    engine = teacher(server)
    batches = engine.plan(TEMPLATE, pairs())
    engine.read(batches[1])
    assert engine.plan(TEMPLATE, pairs()) == batches
    assert [len(batch.pairs) for batch in batches] == [5, 5, 5, 5, 4]
    assert [item for batch in batches for item in batch.pairs] == pairs()
    texts = [TEMPLATE.prompt(p.question, p.passage) + TEMPLATE.completion(p.answer) for p in batches[2].pairs]
    assert batches[2].full_tokens == sum(len(plain.tokenizer(text)["input_ids"]) for text in texts)
    assert batches[2].tokens == batches[2].full_tokens  # no prefix is shared where prompt log-probs are asked


def test_nothing_to_read_asks_nothing(server):
    assert teacher(server).plan(TEMPLATE, []) == []
    assert server.seen == []


def test_the_request_is_one_prompt_in_the_servers_own_tokens(server, plain):
    one(server)
    (request,) = server.requests("/v1/completions")
    text = TEMPLATE.prompt(QUESTIONS[0], None) + TEMPLATE.completion(ANSWERS[0])
    assert request.body == {
        "model": NAME, "prompt": plain.tokenizer(text)["input_ids"], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0,
    }  # fmt: skip


def test_a_prompt_is_tokenised_once_for_all_its_answers(server):
    teacher(server).plan(TEMPLATE, pairs())
    texts = [request.body["prompt"] for request in server.requests("/tokenize")]
    prompts = {TEMPLATE.prompt(p.question, p.passage) for p in pairs()}
    assert len(prompts) == 12
    assert [texts.count(prompt) for prompt in prompts] == [1] * 12


def test_requests_are_in_flight_together(server):
    server.wait_for = 4
    assert len(read(teacher(server, batch_pairs=8), pairs()[:8])) == 8
    assert server.peak == 4


def test_after_a_failure_the_rest_of_the_batch_stays_unsent(server):
    server.change_answer = lambda answer: answer | {"choices": []}
    engine = teacher(server, batch_pairs=100, concurrency=1)
    with pytest.raises(ModelError):
        engine.read(engine.plan(TEMPLATE, pairs())[0])
    assert len(server.requests("/v1/completions")) <= 2  # one more may be under way when the first comes back


def test_a_busy_server_is_asked_again(server, no_pauses):
    expected = one(server)
    server.reset()
    server.refusals = [(503, "The engine is paused"), (500, "Internal server error")]
    assert one(server) == expected
    assert len(server.requests("/v1/completions")) == 3


def test_a_server_that_stays_broken_is_an_error(server, no_pauses):
    server.refusals = [(503, "The engine is paused")] * 100
    with pytest.raises(
        ModelError, match=r"/v1/completions answers 503 \(6 times in a row\) for the answer 'every.*engine is paused"
    ) as caught:
        one(server)
    assert caught.value.transient
    assert len(server.requests("/v1/completions")) == 6


def test_a_server_that_does_not_answer_in_time_is_an_error(server, no_pauses, monkeypatch):
    monkeypatch.setattr(client, "MAX_RETRIES", 1)
    batch = teacher(server).plan(TEMPLATE, pairs()[:1])[0]
    server.hold.clear()
    with pytest.raises(ModelError, match=r"did not answer in time, 2 times in a row .* 0\.2 to answer") as caught:
        teacher(server, timeout_s=0.2).read(batch)
    assert caught.value.transient
    server.hold.set()


def test_no_server_there_is_an_error(server, no_pauses):
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ModelError, match=rf"http://{address} cannot be reached \(.*refused.*\): start the server") as caught:
            one(server, url=f"http://user:pass-word@{address}/v1")
    assert "pass-word" not in str(caught.value)
    assert caught.value.transient


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_root_and_v1_are_both_addresses(server, suffix):
    assert one(server, url=server.url + suffix).n_tokens > 0


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port", "user:secret@host:8000"])
def test_what_is_no_address_is_an_error(server, url):
    with pytest.raises(ConfigError, match="http://host:8000") as caught:
        teacher(server, url=url)
    assert "secret" not in str(caught.value)


def test_a_model_under_another_name_is_an_error(server):
    with pytest.raises(ModelError, match="serves 'tiny@1', not 'gross'"):
        one(server, model="gross")


def test_a_model_taken_away_meanwhile_is_an_error(server, monkeypatch):
    engine = teacher(server)
    batch = engine.plan(TEMPLATE, pairs()[:1])[0]
    monkeypatch.setattr(server, "name", "other")
    with pytest.raises(ModelError, match=r"404 \(The model `tiny@1` does not exist.*the model 'tiny@1' be served there"):
        engine.read(batch)


def test_the_key_is_sent_as_bearer_token_with_every_request(guarded):
    engine = teacher(guarded, api_key="sk-secret-1\n")  # as read from a file
    engine.provenance()
    read(engine, [pair(QUESTIONS[1], ANSWERS[1], LONG)])
    assert {request.path for request in guarded.seen} == {
        "/version", "/v1/models", "/v1/completions", "/tokenize", "/detokenize",
    }  # fmt: skip
    assert {request.headers["authorization"] for request in guarded.seen} == {"Bearer sk-secret-1"}


def test_a_wrong_key_is_an_error_that_does_not_show_it(guarded):
    with pytest.raises(ModelError, match=r"refuses the API key \(401\)") as caught:
        one(guarded, api_key="sk-wrong-2")
    assert "sk-wrong-2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(guarded.seen) == 1  # asking again would not help


def test_a_missing_key_is_an_error(guarded):
    with pytest.raises(ModelError, match=r"asks for an API key \(401\): .*--api-key"):
        one(guarded)


def test_a_key_for_others_is_not_given_to_the_server(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    one(server)
    assert not any("sk-of-someone-else" in value for request in server.seen for value in request.headers.values())


def test_a_server_that_repeats_the_key_does_not_bring_it_into_the_error(guarded):
    engine = teacher(guarded, api_key="sk-secret-1")
    batch = engine.plan(TEMPLATE, pairs()[:1])[0]
    guarded.refusals = [(400, "no credit left on sk-secret-1")]
    with pytest.raises(ModelError, match=r"answers 400 for the answer .*: no credit left on \*\*\*"):
        engine.read(batch)


def test_a_key_that_cannot_stand_in_a_header_is_an_error(server):
    with pytest.raises(ConfigError, match="line break") as caught:
        teacher(server, api_key="sk-se\ncret")
    assert "cret" not in str(caught.value).replace("secret", "")


def test_a_password_in_the_address_is_used_but_not_shown(server):
    engine = teacher(server, url=server.url.replace("http://", "http://user:pass-word@"))
    assert engine.provenance()["server"] == server.url
    assert server.seen[0].headers["authorization"].startswith("Basic ")


def test_provenance_says_what_was_asked_and_no_secret(guarded):
    shown = teacher(guarded, api_key="sk-secret-1").provenance()
    assert shown == {
        "backend": "openai-compatible",
        "server": guarded.url,
        "server_version": VERSION,
        "model": NAME,
        "model_root": str(guarded.folder),
        "max_model_len": 512,
        "concurrency": 4,
        "batch_pairs": 5,
        "prefix_cache": "not read: vLLM computes whole prompts for prompt log-probs",
        "openai": openai.__version__,
    }
    assert "secret" not in json.dumps(shown)


def test_the_fingerprint_is_of_the_name_whatever_the_host(server, guarded):
    prints = [teacher(where, model=name).fingerprint for where in (server, guarded) for name in (NAME, "tiny@2")]
    assert prints[0] == prints[2] != prints[1] == prints[3]
    assert len(prints[0]) == 64
    assert int(prints[0], 16)
    assert server.seen == []  # known without the server


def test_long_passage_loses_its_beginning_and_says_so(server, plain):
    item = pair(QUESTIONS[1], ANSWERS[1], LONG)
    reading = read(teacher(server), [item])[item.key]
    assert reading.truncated
    (request,) = server.requests("/v1/completions")
    ids = request.body["prompt"]
    assert 500 < len(ids) <= 511  # one token is left for the completion, without which vLLM refuses
    kept = plain.tokenizer.decode(ids).removeprefix("Passage: ").split("\n\n")[0]
    assert LONG.endswith(kept)
    nll, count = plain(TEMPLATE.prompt(QUESTIONS[1], kept), TEMPLATE.completion(ANSWERS[1]))
    assert (reading.nll_sum, reading.n_tokens) == (pytest.approx(nll, abs=1e-4), count)


def test_truncation_leaves_whole_letters(server, plain):
    """Every letter has several tokens here, so that most cuts fall within one."""
    passage = "сало ключ дверь 鍵 " * 60
    items = [pair("why " * n, "so", passage, str(n)) for n in range(1, 8)]
    readings = read(teacher(server), items)
    assert all(reading.truncated for reading in readings.values())
    for request in server.requests("/v1/completions"):
        text = plain.tokenizer.decode(request.body["prompt"])
        assert len(request.body["prompt"]) <= 511
        assert "\ufffd" not in text
        assert text.removeprefix("Passage: ").split("\n\n")[0] in passage


def test_a_detokeniser_that_lengthens_texts_still_comes_to_an_end(server, monkeypatch):
    engine = teacher(server)
    asked = []
    ask = engine.client.ask

    def lengthening(path, body=None, about=""):
        if path != "/detokenize":
            return ask(path, body, about)
        asked.append(body)
        return {"prompt": "x" * 100_000}

    monkeypatch.setattr(engine.client, "ask", lengthening)
    words = "я" * 260
    batch = engine.plan(TEMPLATE, [pair("Why?", "so", words)])[0]
    assert batch.work[0].truncated
    assert 0 < len(asked) < len(words)


def test_question_longer_than_the_context_is_an_error(server):
    with pytest.raises(InputError, match=r"question 'why why .*exceed the teacher's 511 tokens"):
        read(teacher(server), [pair("why " * 600, "so", PASSAGES[0])])


def test_answer_without_tokens_is_an_error(server):
    template = Template(TEMPLATE.passage, TEMPLATE.question, "{answer}")
    with pytest.raises(InputError, match=r"answer '' to 'Where\?' has no tokens"):
        read(teacher(server), [pair("Where?", "", None)], template)


def test_answer_without_a_token_before_it_is_an_error(server):
    template = Template("{passage} ", "{question}", "{answer}")
    with pytest.raises(ModelError, match="begin the template's question part"):
        read(teacher(server), [pair("", "keys", None)], template)


def test_answer_merging_with_the_prompt_is_an_error(server, plain):
    def ids(text):
        return plain.tokenizer(text)["input_ids"]

    merging = next(
        word for word in ("swer", "d", "y", "other", "n", "t") if ids("x An" + word)[: len(ids("x An"))] != ids("x An")
    )
    with pytest.raises(ModelError, match=r"merges the prompt's end.*starts a new token"):
        read(teacher(server), [pair("x", merging, None)], Template("{passage} ", "{question} An", "{answer}"))


def test_special_tokens_at_the_end_of_every_text_are_left_out(tiny_lm, tmp_path, plain):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", 1)])
    AutoModelForCausalLM.from_pretrained(tiny_lm).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with VllmLikeServer(tmp_path, NAME) as server:
        reading = one(server)
        (request,) = server.requests("/v1/completions")
    text = TEMPLATE.prompt(QUESTIONS[0], None) + TEMPLATE.completion(ANSWERS[0])
    assert request.body["prompt"] == [0, *plain.tokenizer(text)["input_ids"]]
    assert reading.n_tokens == len(plain.tokenizer(TEMPLATE.completion(ANSWERS[0]))["input_ids"])


def with_last_log_prob(value):
    """A change of the completion's JSON: the answer's last token gets ``value``, sent as Python's json writes it."""

    def change(answer):
        (facts,) = answer["choices"][0]["prompt_logprobs"][-1].values()
        facts["logprob"] = value
        return Response(json.dumps(answer), media_type="application/json")

    return change


ABOUT = "for the answer 'every four years' to 'How often is the seal replaced"


def test_nan_which_vllm_cannot_send_is_an_error(server):
    server.change_logits = lambda logits: logits * math.nan
    with pytest.raises(ModelError, match=rf"gives NaN or infinity {ABOUT}.*--dtype") as caught:
        one(server)
    assert not caught.value.transient  # a 500, but the weights will be the same tomorrow


def test_minus_infinity_which_vllm_sends_as_a_number_is_an_error(server, plain):
    never = plain.tokenizer(TEMPLATE.completion(ANSWERS[0]))["input_ids"][-1]
    server.change_logits = lambda logits: logits.index_fill(-1, torch.tensor(never), -math.inf)
    with pytest.raises(ModelError, match=f"gives minus infinity {ABOUT}"):
        one(server)


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_number_is_an_error(server, value):
    server.change_answer = with_last_log_prob(value)
    with pytest.raises(ModelError, match=f"gives {value} {ABOUT}"):
        one(server)


def test_logits_in_the_place_of_log_probs_are_an_error(server):
    server.change_answer = with_last_log_prob(3.25)
    with pytest.raises(ModelError, match=r"gives the log-probability 3\.25 .*--logprobs-mode raw_logprobs"):
        one(server)


def test_likelier_tokens_beside_the_one_sent_are_no_matter(server, plain):
    expected = one(server)

    def with_more(answer):
        for at in answer["choices"][0]["prompt_logprobs"][1:]:
            at.setdefault("599", {"logprob": -0.5, "rank": 1, "decoded_token": "x"})
        return answer

    server.change_answer = with_more
    assert one(server) == expected


def without(name):
    def change(answer):
        del answer["choices"][0][name]
        return answer

    return change


def first_tokens_cut(answer):
    answer["choices"][0]["prompt_logprobs"] = [None, *answer["choices"][0]["prompt_logprobs"][3:]]
    return answer


def first_token_unknown(answer):
    """As old versions did for what they had in the prefix cache."""
    answer["choices"][0]["prompt_logprobs"][1] = None
    return answer


def other_token(answer):
    at = answer["choices"][0]["prompt_logprobs"][-1]
    at["7777"] = at.pop(next(iter(at)))
    return answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("prompt_logprobs"), "sends no prompt_logprobs.*vLLM 0.8 or newer"),
        (lambda answer: answer | {"choices": []}, "sends 0 completions of one prompt, for the answer"),
        (lambda answer: answer | {"choices": answer["choices"] * 2}, "sends 2 completions of one prompt, for the answer"),
        (lambda answer: {"object": "text_completion"}, "answers without 'choices'"),
        (lambda answer: HTMLResponse("<h1>Welcome</h1>"), "answers without 'choices'.*not that of a vLLM server"),
        (lambda answer: Response("{", media_type="application/json"), "does not answer in JSON"),
        (first_tokens_cut, "log-probs of other tokens than it was sent, for the answer"),
        (first_token_unknown, "log-probs of other tokens than it was sent, for the answer"),
        (other_token, "log-probs of other tokens than it was sent, for the answer"),
    ],
)
def test_a_server_that_answers_otherwise_is_an_error(server, change, message):
    server.change_answer = change
    with pytest.raises(ModelError, match=message):
        one(server)


def test_a_server_without_a_tokeniser_is_an_error(server, monkeypatch):
    engine = teacher(server)
    ask = engine.client.ask
    monkeypatch.setattr(engine.client, "ask", lambda path, *rest: ask(path.replace("/tokenize", "/tokenise"), *rest))
    with pytest.raises(ModelError, match=r"/tokenise answers 404 \(Not Found\).*/tokenize and /detokenize are needed"):
        engine.plan(TEMPLATE, pairs())
