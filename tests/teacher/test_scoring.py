"""The engine against the plain way: one pair at a time, full prompt, no cache, no padding."""

import random
import threading

import numpy as np
import pytest
import torch

from uae.io.errors import InputError, ModelError
from uae.teacher.engines.local import CausalTeacher, load_causal_lm, load_teacher
from uae.teacher.noise import NOISE
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair, read_all

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


def pair(question: int, passage: str | None, answer: str | None = None) -> Pair:
    answer = ANSWERS[question] if answer is None else answer
    return Pair((str(question), str(passage), answer, "t", "T"), QUESTIONS[question], answer, passage)


def pairs() -> list[Pair]:
    return [pair(question, passage) for passage in [None, *PASSAGES] for question in range(3)]


def read(teacher: CausalTeacher, work: list[Pair], template: Template = TEMPLATE) -> dict:
    return {reading.key: reading for batch in teacher.plan(template, work) for reading in teacher.read(batch)}


def mean(reading) -> float:
    return reading.nll_sum / reading.n_tokens


@pytest.fixture(scope="module")
def loaded(tiny_lm):
    return load_causal_lm(tiny_lm, "cpu", "float32")


@pytest.fixture
def make(loaded):
    def build(batch_tokens: int = 4096, memory_mb: int = 1024, trees: bool = True, model=None) -> CausalTeacher:
        return CausalTeacher(model or loaded[0], loaded[1], "f" * 64, batch_tokens, memory_mb, compile=False, trees=trees)

    return build


def plain_nll(model, tokenizer, pair: Pair) -> tuple[float, int]:
    prompt = tokenizer(TEMPLATE.prompt(pair.question, pair.passage))["input_ids"]
    whole = tokenizer(TEMPLATE.prompt(pair.question, pair.passage) + TEMPLATE.completion(pair.answer))["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    positions = range(len(prompt), len(whole))
    return -sum(logits[i - 1, whole[i]].item() for i in positions), len(positions)


@pytest.mark.parametrize("trees", [True, False])
def test_equals_one_pair_at_a_time_without_cache_or_padding(loaded, make, trees):
    work = [*pairs(), pair(0, PASSAGES[0], "yearly"), pair(0, PASSAGES[0], "every four months")]
    teacher = make(trees=trees)
    assert teacher.trees == trees
    got = read(teacher, work)
    for each in work:
        nll, count = plain_nll(*loaded, each)
        assert got[each.key].n_tokens == count
        assert mean(got[each.key]) == pytest.approx(nll / count, abs=1e-5)


@pytest.mark.parametrize("budget", [1, 100, 250, 100_000])
@pytest.mark.parametrize("trees", [True, False])
def test_batch_size_and_order_change_nothing(make, budget, trees):
    expected = read(make(), pairs())
    shuffled = pairs()
    random.Random(budget).shuffle(shuffled)
    shuffled.sort(key=lambda pair: str(pair.passage))  # pairs of a passage stand together
    got = read(make(budget, trees=trees), shuffled)
    assert {key: mean(r) for key, r in got.items()} == pytest.approx({key: mean(r) for key, r in expected.items()}, abs=1e-5)


def test_a_pair_alone_equals_the_pair_in_company(make):
    teacher = make()
    together = read(teacher, pairs())
    for each in pairs():
        assert mean(read(teacher, [each])[each.key]) == pytest.approx(mean(together[each.key]), abs=1e-5)


def test_shared_tokens_go_through_the_model_once(loaded, make, monkeypatch):
    model, tokenizer = loaded
    teacher = make()
    work = [pair(question, PASSAGES[2], "in the lodge") for question in range(3)]
    (batch,) = teacher.plan(TEMPLATE, work)
    passed = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: passed.append(kw["input_ids"].numel()) or forward(**kw))
    teacher.read(batch)
    prefix = len(tokenizer(TEMPLATE.passage.replace("{passage}", PASSAGES[2]))["input_ids"])
    assert passed == [batch.tokens]
    assert batch.tokens < batch.full_tokens - 2 * prefix


def test_batches_keep_the_token_budget_and_every_pair(make):
    batches = make(batch_tokens=150).plan(TEMPLATE, pairs())
    assert len(batches) > 1
    assert all(batch.tokens <= 150 for batch in batches)
    assert sorted(p.key for batch in batches for p in batch.pairs) == sorted(p.key for p in pairs())


def test_the_same_pairs_give_the_same_batches(make):
    teacher = make(batch_tokens=150)
    first, second = ([batch.pairs for batch in teacher.plan(TEMPLATE, pairs())] for _ in range(2))
    assert first == second


def test_a_model_that_cannot_read_trees_reads_whole_prompts(loaded, tokenizer, caplog):
    """ALiBi takes no position ids: a tree would be read wrongly, and the probe sees it."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    model = BloomForCausalLM(config).eval()
    teacher = CausalTeacher(model, loaded[1], "f" * 64, 4096, 1024, compile=False)
    assert not teacher.trees
    assert "cannot share prompt prefixes" in caplog.text
    assert teacher.provenance()["layout"] == "padded whole prompts"
    got = read(teacher, pairs())
    for each in pairs():
        nll, count = plain_nll(model, loaded[1], each)
        assert mean(got[each.key]) == pytest.approx(nll / count, abs=1e-5)


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize(("share", "trees"), [(0.9, True), (1.1, False)])
def test_trees_may_differ_from_whole_prompts_by_what_the_number_format_rounds(loaded, monkeypatch, name, share, trees):
    """In half precision a sound model reads trees a little otherwise; in float32 as much says that it cannot read them."""
    found = iter([np.zeros(6), np.full(6, share * NOISE[name].probe)])
    monkeypatch.setattr(CausalTeacher, "_probe_nlls", lambda self, pairs: next(found))
    monkeypatch.setattr(CausalTeacher, "_number_format", lambda self: name)
    assert CausalTeacher(*loaded, "f" * 64, 4096, 1024, compile=False).trees is trees


def test_a_sliding_window_is_kept(loaded, tokenizer):
    """Within the window trees, beyond it the model's own mask; both equal the plain way."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=70, initializer_range=0.3,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    teacher = CausalTeacher(model, loaded[1], "f" * 64, 4096, 1024, compile=False)
    work = [*pairs(), pair(1, " ".join(PASSAGES * 2))]
    lengths = [len(loaded[1](TEMPLATE.prompt(p.question, p.passage) + TEMPLATE.completion(p.answer))["input_ids"]) for p in work]
    assert min(lengths) < 70 < max(lengths), lengths
    assert teacher.trees
    got = read(teacher, work)
    for each in work:
        nll, count = plain_nll(model, loaded[1], each)
        assert mean(got[each.key]) == pytest.approx(nll / count, abs=1e-5)


def test_long_passage_loses_its_beginning_and_says_so(loaded, make):
    long = "Filler about nothing in particular. " * 60 + "The keys hang in the porter's lodge."
    reading = read(make(), [pair(1, long)])[pair(1, long).key]
    assert reading.truncated
    assert reading.n_tokens == len(loaded[1](TEMPLATE.completion(ANSWERS[1]))["input_ids"])
    ending = pair(1, "about nothing in particular. " * 3 + "The keys hang in the porter's lodge.")
    without = pair(1, "about nothing in particular. " * 3)
    assert read(make(), [ending])[ending.key].nll_sum != read(make(), [without])[without.key].nll_sum


def test_short_passage_is_not_truncated(make):
    assert not any(r.truncated for r in read(make(), pairs()).values())


def test_answer_without_tokens_is_an_error(make):
    template = Template(TEMPLATE.passage, TEMPLATE.question, "{answer}")
    with pytest.raises(InputError, match="has no tokens"):
        read(make(), [pair(1, None, "")], template)


def test_prompt_without_tokens_is_an_error(make):
    with pytest.raises(ModelError, match="prompt without a passage has no tokens"):
        read(make(), [Pair(("q",) * 5, "", "Where are the keys?", None)], Template("{passage}\n", "", "{answer}"))


def test_question_longer_than_the_context_is_an_error(make):
    with pytest.raises(InputError, match="exceed the teacher's 512 tokens"):
        read(make(), [Pair(("q",) * 5, "why " * 600, "so", PASSAGES[0])])


def test_answer_merging_with_the_prompt_is_an_error(loaded, make):
    tokenizer = loaded[1]
    template = Template("{passage} ", "{question} An", "{answer}")
    merging = next(
        word for word in ("swer", "d", "y", "other", "n", "t")
        if tokenizer("x An" + word)["input_ids"][: len(tokenizer("x An")["input_ids"])] != tokenizer("x An")["input_ids"]
    )  # fmt: skip
    with pytest.raises(ModelError, match="merges the prompt's end"):
        read(make(), [Pair(("q",) * 5, "x", merging, None)], template)


def test_closing_special_tokens_stand_after_the_answer(loaded, make):
    """A tokenizer that ends every text with <eos> must not put one between prompt and answer."""
    import copy

    from tokenizers.processors import TemplateProcessing

    closing = copy.deepcopy(loaded[1])
    closing._tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    assert closing("a")["input_ids"][-1] == 1
    teacher = CausalTeacher(loaded[0], closing, "f" * 64, 4096, 1024, compile=False)
    assert {k: mean(r) for k, r in read(teacher, pairs()).items()} == pytest.approx(
        {k: mean(r) for k, r in read(make(), pairs()).items()}, abs=1e-6
    )


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_no_numbers_are_an_error(loaded, make, monkeypatch, value):
    teacher = make()
    forward = loaded[0].forward

    def poisoned(**kwargs):
        output = forward(**kwargs)
        output.logits = output.logits + float(value)
        return output

    monkeypatch.setattr(loaded[0], "forward", poisoned)
    with pytest.raises(ModelError, match=r"gives (nan|inf|-inf) for the answer"):
        read(teacher, pairs()[:1])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")]
)
@pytest.mark.parametrize("trees", [True, False])
def test_out_of_memory_halves_the_batch_and_goes_on(loaded, make, monkeypatch, caplog, error, trees):
    teacher = make(trees=trees)
    expected = read(teacher, pairs())
    forward = loaded[0].forward
    limit = 110  # the longest pair has 102 tokens

    def small(**kwargs):
        if kwargs["input_ids"].numel() > limit:
            raise error
        return forward(**kwargs)

    monkeypatch.setattr(loaded[0], "forward", small)
    got = read(teacher, pairs())
    assert teacher.halvings > 0
    assert "the batch is halved" in caplog.text
    assert {key: mean(r) for key, r in got.items()} == pytest.approx({key: mean(r) for key, r in expected.items()}, abs=1e-5)
    assert teacher.batch_tokens < 4096  # later plans are smaller from the start


def test_out_of_memory_on_one_pair_names_it(loaded, make, monkeypatch):
    teacher = make()

    def full(**kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded[0], "forward", full)
    with pytest.raises(ModelError, match=r"single pair of \d+ tokens \(question 'Where are the keys"):
        read(teacher, [pair(1, PASSAGES[1])])


def test_other_errors_are_not_taken_for_lack_of_memory(loaded, make, monkeypatch):
    teacher = make()

    def broken(**kwargs):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(loaded[0], "forward", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        read(teacher, pairs()[:1])


def test_model_without_tokenizer_is_an_error(tiny_lm, tmp_path):
    import shutil

    for name in ("config.json", "model.safetensors", "generation_config.json"):
        if (tiny_lm / name).exists():
            shutil.copy(tiny_lm / name, tmp_path)
    with pytest.raises(ModelError, match="no tokenizer"):
        load_teacher(tmp_path, "f" * 64, "cpu", "float32", None, None, False)


def test_compiled_teacher_gives_the_same(tiny_lm, make, monkeypatch):
    """With a backend that traces as the real one does, but spares the test the C++ compiler's minute."""
    from transformers import PreTrainedModel

    compiled = []
    real = PreTrainedModel.compile
    monkeypatch.setattr(
        PreTrainedModel, "compile", lambda model, **kw: compiled.append(kw) or real(model, backend="aot_eager", **kw)
    )
    teacher = load_teacher(tiny_lm, "f" * 64, "cpu", "float32", 4096, 1024, True)
    assert compiled == [{"dynamic": True}]
    assert teacher.provenance()["compiled"]
    assert {k: mean(r) for k, r in read(teacher, pairs()).items()} == pytest.approx(
        {k: mean(r) for k, r in read(make(), pairs()).items()}, abs=1e-5
    )


def test_several_workers_give_the_same(make):
    """Each thread reads trees of its own: what one thread lays out must not reach the other's attention."""
    teacher = make(batch_tokens=110)
    batches = teacher.plan(TEMPLATE, pairs())
    assert len(batches) > 4
    teacher.workers = 1
    alone = {reading.key: mean(reading) for _, readings in read_all(teacher, batches) for reading in readings}
    teacher.workers = 3
    for _ in range(3):
        read_batches, together = [], {}
        for batch, readings in read_all(teacher, batches):
            assert {reading.key for reading in readings} == {pair.key for pair in batch.pairs}
            read_batches.append(batch)
            together |= {reading.key: mean(reading) for reading in readings}
        assert sorted(map(id, read_batches)) == sorted(map(id, batches))
        assert together == pytest.approx(alone, abs=1e-5)


def test_a_slow_reader_holds_back_no_other_s_readings(make, monkeypatch):
    teacher = make(batch_tokens=110)
    teacher.workers = 2
    batches = teacher.plan(TEMPLATE, pairs())
    others_done, read_one = threading.Event(), teacher.read

    def read_slowly(batch):
        if batch is batches[0]:
            assert others_done.wait(60)
        return read_one(batch)

    monkeypatch.setattr(teacher, "read", read_slowly)
    reading = read_all(teacher, batches)
    early = [batch for batch, _ in (next(reading) for _ in batches[1:])]
    assert sorted(map(id, early)) == sorted(map(id, batches[1:]))
    others_done.set()
    assert [batch for batch, _ in reading] == batches[:1]


def test_an_error_in_a_worker_ends_the_reading(make, monkeypatch):
    teacher = make(batch_tokens=110)
    teacher.workers = 2
    batches = teacher.plan(TEMPLATE, pairs())
    read_one = teacher.read

    def broken(batch):
        if batch is batches[1]:
            raise ModelError("broken")
        return read_one(batch)

    monkeypatch.setattr(teacher, "read", broken)
    reading = read_all(teacher, batches)
    read = []
    with pytest.raises(ModelError, match="broken"):
        read.extend(batch for batch, _ in reading)
    assert batches[1] not in read
