"""Prompts in the model's chat template: the engines against the plain way, one whole prompt at a time."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_like_server import VllmLikeServer

from uae.io.errors import ModelError
from uae.teacher.chat import assistant, in_chat_template, user
from uae.teacher.engines.local import CausalTeacher, load_causal_lm
from uae.teacher.engines.served import ServedTeacher
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer in few words.", "{answer}", chat=True)
PASSAGES = [
    None,
    "The door seal of the cabinet is replaced every four years.",
    "Keys hang in the porter's lodge. {braces} <tags>",
]
ASKED = [("How often is the seal replaced?", "every four years"), ("Where are the keys?", "in the porter's lodge")]
LONG = "Filler about nothing in particular. " * 60 + "The keys hang in the porter's lodge."
NAME = "tiny-chat@1"


def pairs() -> list[Pair]:
    return [
        Pair((str(number), str(place), answer, "", ""), question, answer, passage)
        for place, passage in enumerate(PASSAGES)
        for number, (question, answer) in enumerate([*ASKED, (ASKED[1][0], "with the porter")])
    ]


@pytest.fixture(scope="module")
def loaded(chat_lm):
    return load_causal_lm(chat_lm, "cpu", "float32")


@pytest.fixture(scope="module")
def plain(chat_lm):
    """A pair's NLL and number of tokens by transformers alone: chat template, whole prompt, no cache, no tree."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(chat_lm).eval(), AutoTokenizer.from_pretrained(chat_lm)

    def nll(pair: Pair) -> tuple[float, int]:
        said = (
            "" if pair.passage is None else f"Passage: {pair.passage}\n\n"
        ) + f"Question: {pair.question}\nAnswer in few words."
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, enable_thinking=False, return_dict=False
        )
        answer = tokenizer(pair.answer, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            log_probs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        values = [log_probs[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer)]
        return -sum(values), len(answer)

    return nll


def read(engine, work: list[Pair], template: Template = TEMPLATE) -> dict:
    return {reading.key: reading for batch in engine.plan(template, work) for reading in engine.read(batch)}


def check(readings: dict, plain) -> None:
    assert len(readings) == len(pairs())
    for pair in pairs():
        nll, count = plain(pair)
        assert readings[pair.key].n_tokens == count
        assert readings[pair.key].nll_sum == pytest.approx(nll, abs=1e-4)
        assert not readings[pair.key].truncated


@pytest.mark.parametrize("batch_tokens", [60, 4096])
@pytest.mark.parametrize("trees", [True, False])
def test_readings_equal_the_plain_way(loaded, plain, trees, batch_tokens):
    engine = CausalTeacher(*loaded, "f" * 64, batch_tokens, 1024, compile=False, trees=trees)
    assert engine.trees == trees
    check(read(engine, pairs()), plain)


def test_the_order_of_pairs_changes_nothing(loaded, plain):
    shuffled = pairs()
    random.Random(1).shuffle(shuffled)
    shuffled.sort(key=lambda pair: str(pair.passage))  # pairs of a passage stand together
    check(read(CausalTeacher(*loaded, "f" * 64, 4096, 1024, compile=False), shuffled), plain)


def test_what_prompts_share_is_read_once(loaded):
    """The message's header and the passage; the special tokens at its end stand in each branch."""
    tokenizer = loaded[1]
    (batch,) = CausalTeacher(*loaded, "f" * 64, 4096, 1024, compile=False).plan(TEMPLATE, pairs()[3:6])
    shared = len(tokenizer(f"<user>Passage: {PASSAGES[1]}\n\nQuestion:", add_special_tokens=False)["input_ids"])
    assert batch.tokens <= batch.full_tokens - 2 * shared


def test_a_long_passage_loses_its_beginning_and_the_message_stays_whole(loaded):
    engine = CausalTeacher(*loaded, "f" * 64, 4096, 1024, compile=False)
    work = [Pair(("0",) * 5, *ASKED[1], LONG)]
    (batch,) = engine.plan(TEMPLATE, work)
    (tree,) = batch.work
    text = loaded[1].decode(tree.sequences[0].tokens)
    assert tree.sequences[0].truncated
    assert len(tree.sequences[0].tokens) <= 512
    assert text.startswith("<user>Passage: ")
    assert text.endswith(f"lodge.\n\nQuestion: {ASKED[1][0]}\nAnswer in few words.<eos><assistant>{ASKED[1][1]}")


def test_a_served_model_reads_the_same(chat_lm, plain):
    with VllmLikeServer(chat_lm, NAME) as server:
        engine = ServedTeacher(url=server.url, model=NAME, api_key=None, concurrency=4, timeout_s=20.0, batch_pairs=5)
        check(read(engine, pairs()), plain)
        cut = read(engine, [Pair(("0",) * 5, *ASKED[1], LONG)])
        assert cut[("0",) * 5].truncated
        asked = [request.body for request in server.requests("/tokenize") if "messages" in request.body]
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in asked)
    assert len({body["messages"][0]["content"] for body in asked}) == len(asked)  # each prompt once, whatever its answers


def test_a_served_model_without_a_chat_template_is_an_error(tiny_lm):
    with VllmLikeServer(tiny_lm, NAME) as server:
        engine = ServedTeacher(url=server.url, model=NAME, api_key=None, concurrency=4, timeout_s=20.0, batch_pairs=5)
        with pytest.raises(ModelError, match=r"/tokenize answers 400 for a prompt in the model's chat template \(chat: true\)"):
            engine.plan(TEMPLATE, pairs())


def test_a_model_without_a_chat_template_is_an_error(tiny_lm):
    engine = CausalTeacher(*load_causal_lm(tiny_lm, "cpu", "float32"), "f" * 64, 4096, 1024, compile=False)
    with pytest.raises(ModelError, match=rf"{tiny_lm}, which has none: set chat to false, or take an instruct model"):
        engine.plan(TEMPLATE, pairs())


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for message in messages %}{{ raise_exception('no users, please') }}{% endfor %}", "no users, please"),
        ("{{ messages[0]['content']['text'] }}", "leaves out what the user says"),
        ("{% for message in messages %}", "cannot be filled"),
    ],
    ids=["refuses", "leaves out", "no template"],
)
def test_a_chat_template_that_does_not_work_is_an_error(loaded, template, said):
    tokenizer = AutoTokenizer.from_pretrained(loaded[1].name_or_path)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=said):
        in_chat_template(tokenizer, [user("Why?")])


def test_examples_stand_as_turns_before_the_question(loaded):
    text = in_chat_template(loaded[1], [user("One?"), assistant("yes"), user("Two?")])
    assert text == "<user>One?<eos><assistant>yes<eos><user>Two?<eos><assistant>"


def test_the_chat_is_part_of_the_hash_and_plain_templates_keep_theirs():
    pieces = ("{passage} ", "{question} ", "{answer}")
    hashes = {
        Template(*pieces, chat=chat, passage_template=read).hash
        for chat in (False, True)
        for read in ("{text}", "{title} {text}")
    }
    assert len(hashes) == 4
    assert (
        Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}").hash == "b28b883a3feafeb9"
    )  # of a store from before there was a chat
