"""BM25 in the score that is trained: it is the one that is served, the objective and the validation score see it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from small_training import changed, run
from torch.nn.functional import normalize

from uae.io.errors import ConfigError
from uae.measures.fusion import SCORES, Fusion, fuse
from uae.pipeline.settings import load_settings
from uae.retrievers.lexical import rank_bm25
from uae.training.agreement import METRIC, Agreement
from uae.training.batches import UtilityCollator, label_rows
from uae.training.checkpoints import identity
from uae.training.examples import Example
from uae.training.fit import fit
from uae.training.lexical import LexicalPart, lexical_part
from uae.training.loss import ObjectiveLoss
from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import Masks, ScoredBatch
from uae.training.objectives.utility_infonce import UtilityInfoNCE

NONE: frozenset[str] = frozenset()
TEXTS = ["red lamp", "lamp lamp oil wick", "blue fan", "red red lamp"]
PASSAGES = pd.DataFrame({"passage_id": list("abcd"), "text": TEXTS, "doc_id": ["x", "x", "y", "y"]})
WEIGHT = 0.6


def bm25(query: str, text: str) -> float:
    """Lucene's, k1 1.2 and b 0.75, written out."""
    texts = [each.split() for each in TEXTS]
    mean = np.mean([len(words) for words in texts])
    words, total = text.split(), 0.0
    for word in query.split():
        holding = sum(word in each for each in texts)
        times = words.count(word)
        rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        total += rarity * times / (times + 1.2 * (0.25 + 0.75 * len(words) / mean))
    return total


def test_over_the_corpus_it_is_bm25_over_the_highest_of_all_passages():
    scores = [bm25("red lamp", text) for text in TEXTS]
    found = LexicalPart(PASSAGES, "corpus", WEIGHT)("red lamp", "x", TEXTS[::-1])
    assert found == pytest.approx([WEIGHT * score / max(scores) for score in reversed(scores)], rel=1e-6)
    assert max(found) == WEIGHT


def test_within_a_document_the_highest_is_its_own_and_others_get_no_more():
    part = LexicalPart(PASSAGES, "document", WEIGHT)
    own = bm25("oil red", TEXTS[0]) / bm25("oil red", TEXTS[1])
    assert part("oil red", "x", TEXTS) == pytest.approx(
        [WEIGHT * own, WEIGHT, 0.0, WEIGHT * bm25("oil red", TEXTS[3]) / bm25("oil red", TEXTS[1])], rel=1e-6
    )
    assert bm25("lamp red", TEXTS[3]) > bm25("lamp red", TEXTS[0])  # and is not found for a question of document x
    assert part("lamp red", "x", TEXTS)[[0, 3]] == pytest.approx([WEIGHT, WEIGHT])


@pytest.mark.parametrize(("question", "document"), [("green", "x"), ("blue", "x"), ("", "x"), ("red", "none such")])
def test_where_no_passage_that_may_be_found_shares_a_word_nothing_is_added(question, document):
    assert not LexicalPart(PASSAGES, "document", WEIGHT)(question, document, TEXTS).any()


@pytest.mark.parametrize("scope", ["document", "corpus"])
def test_the_sum_is_what_is_served(scope):
    questions = pd.DataFrame({"question_id": ["q"], "text": ["red lamp oil"], "doc_id": ["x"], "source": ["s"]})
    words = rank_bm25(questions, PASSAGES, scope, None)
    cosines = {"a": 0.3, "b": 0.25, "c": 0.2, "d": -0.4}
    dense = {"q": (words["q"][0], [cosines[passage_id] for passage_id in words["q"][0]])}
    ids, served = fuse(dense, words, Fusion(SCORES, WEIGHT))["q"]
    texts = PASSAGES.set_index("passage_id")["text"]
    part = LexicalPart(PASSAGES, scope, WEIGHT)("red lamp oil", "x", [texts[passage_id] for passage_id in ids])
    assert [cosines[passage_id] for passage_id in ids] + part == pytest.approx(served, abs=1e-8)


def test_without_a_weight_there_is_none():
    """And nothing is read."""
    assert lexical_part(None, "corpus", 0.0) is None
    assert lexical_part(lambda: PASSAGES, "corpus", 0.5).weight == 0.5


ROWS = {
    "q": Example("red lamp", "x", (TEXTS[0], TEXTS[1]), (1.0, 0.2), NONE, frozenset({TEXTS[0]}), NONE),
    "r": Example("blue fan", "y", (TEXTS[2], TEXTS[3]), (0.0, 0.6), NONE, frozenset({TEXTS[2]}), NONE),
}


@pytest.fixture
def encoder(tiny_encoder):
    return SentenceTransformer(str(tiny_encoder), device="cpu").eval()


def unit(rows: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    return normalize(drawn, dim=-1).requires_grad_()


def labels(added: LexicalPart | None = None) -> torch.Tensor:
    collator = UtilityCollator(
        preprocess_fn=lambda texts, prompt, task: {"n": torch.ones(len(texts))}, examples=ROWS, added=added
    )
    return collator([{"key": key} for key in ROWS])["label"]


def test_a_batch_says_what_is_added_for_each_question_and_passage_runs_of_passages_too():
    part = LexicalPart(PASSAGES, "corpus", WEIGHT)
    found = labels(part)
    assert torch.equal(found[:4], labels()[:4])
    assert not labels()[4].any()
    assert found[4].numpy() == pytest.approx(np.stack([part(row.question, row.document, TEXTS) for row in ROWS.values()]))
    long = "one two three four five six seven eight"
    passages = pd.DataFrame({"text": [long, "nine"], "doc_id": ["x", "x"]})
    rows = {"q": Example("nine", "x", (long, "nine"), (1.0, 0.0), NONE, NONE, NONE)}
    collator = UtilityCollator(
        preprocess_fn=lambda texts, prompt, task: {"n": torch.ones(len(texts))}, examples=rows, passage_queries=1.0,
        added=LexicalPart(passages, "corpus", 1.0),
    )  # fmt: skip
    assert collator([{"key": "q"}])["label"][4].tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "plackett_luce"])  # which draws
def test_every_objective_sees_the_sum(encoder, name):
    objective = changed(objective=name).chosen_objective()
    planes = labels(LexicalPart(PASSAGES, "corpus", WEIGHT))
    questions, passages = unit(2, 1), unit(4, 2)
    loss = ObjectiveLoss(encoder, objective, 0.5, 0.05)(
        [{"sentence_embedding": questions}, {"sentence_embedding": passages}], planes
    )
    masks = Masks(*(plane > 0 for plane in planes[1:4]))
    fused, plain = (
        objective(ScoredBatch(questions @ passages.T + added, planes[0], masks, 0.5, 0.05)) for added in (planes[4], 0.0)
    )
    assert loss.item() == pytest.approx(fused.item(), rel=1e-5)
    assert fused.item() != pytest.approx(plain.item(), rel=1e-3)


def test_the_gradient_is_that_of_the_softmax_of_the_sum(encoder):
    """By a question's vector q: ``sum over d of (p_S(d) - w(d)) g_d / (temperature * questions)``, less its part along q."""
    planes = labels(LexicalPart(PASSAGES, "corpus", WEIGHT))
    questions, passages = unit(2, 1), unit(4, 2)
    loss = ObjectiveLoss(encoder, UtilityInfoNCE(evidence_share=0.0), 0.5, 0.05)
    loss([{"sentence_embedding": questions}, {"sentence_embedding": passages}], planes).backward()
    with torch.no_grad():
        student = ((questions @ passages.T + planes[4]) / 0.05).softmax(1)
        teacher = torch.zeros(2, 4)
        teacher[0, :2] = (torch.tensor([1.0, 0.2]) / 0.5).softmax(0)
        teacher[1, 2:] = (torch.tensor([0.0, 0.6]) / 0.5).softmax(0)
        wanted = (student - teacher) @ passages / (0.05 * 2)
        wanted -= (wanted * questions).sum(1, keepdim=True) * questions
    assert torch.allclose(questions.grad, wanted, rtol=1e-4, atol=1e-5)


def test_cut_vectors_have_the_same_added(encoder):
    planes = labels(LexicalPart(PASSAGES, "corpus", WEIGHT))
    questions, passages = unit(2, 1), unit(4, 2)
    objective, masks = UtilityInfoNCE(evidence_share=0.0), Masks(*(plane > 0 for plane in planes[1:4]))
    full, short = (
        objective(
            ScoredBatch(
                normalize(questions[:, :size], dim=-1) @ normalize(passages[:, :size], dim=-1).T + planes[4],
                planes[0], masks, 0.5, 0.05,
            )
        ).item()
        for size in (32, 8)
    )  # fmt: skip
    loss = ObjectiveLoss(encoder, objective, 0.5, 0.05, {8: 3.0})
    found = loss([{"sentence_embedding": questions}, {"sentence_embedding": passages}], planes)
    assert found.item() == pytest.approx((full + 3 * short) / 4, rel=1e-5)


def test_the_validation_score_is_that_of_the_sum(encoder):
    """With a weight that no cosine outweighs, the order is BM25's."""
    rows = {"q": Example("oil wick", "x", (TEXTS[0], TEXTS[1]), (0.0, 1.0), NONE, NONE, NONE)}
    for useful, expected in ((1, 1.0), (0, None)):
        utilities = (0.0, 1.0) if useful else (1.0, 0.0)
        row = {"q": Example("oil wick", "x", rows["q"].passages, utilities, NONE, NONE, NONE)}
        found = Agreement(row, 0.1, 0.0, added=LexicalPart(PASSAGES, "document", 5.0))
        score = found(encoder)[METRIC]
        scores = found.scores(encoder)["q"]
        alone = Agreement(row, 0.1, 0.0).scores(encoder)["q"]
        assert scores - alone == pytest.approx([0.0, 5.0], abs=1e-6)
        assert score == pytest.approx(1.0) if expected else score < 0.7


def test_another_corpus_or_scope_is_another_run(tiny_encoder):
    parts = {"train": ROWS, "validation": ROWS}
    other = PASSAGES.assign(text=[*TEXTS[:3], "green"])
    kinds = [
        None,
        LexicalPart(PASSAGES, "corpus", 1.0),
        LexicalPart(PASSAGES, "document", 1.0),
        LexicalPart(other, "corpus", 1.0),
    ]
    runs = [identity(parts, tiny_encoder, changed(), 0.5, 1, added=kind) for kind in kinds]
    assert len(set(runs)) == 4
    assert identity(parts, tiny_encoder, changed(), 0.5, 1, added=LexicalPart(PASSAGES, "corpus", 1.0)) == runs[1]


def test_what_is_added_and_the_options_belong_together(tiny_encoder, tmp_path):
    with pytest.raises(ValueError, match="do not belong together"):
        fit(
            {"train": ROWS, "validation": ROWS},
            tiny_encoder,
            tmp_path / "s",
            tmp_path / "c",
            changed(lexical_weight=0.5),
            0.5,
            "cpu",
            1,
        )


@pytest.mark.parametrize("changes", [{}, {"towers": "query"}, {"passage_queries": 0.5}, {"rivals": ("kl",)}])
def test_a_student_is_trained_on_the_sum(labelled, tiny_encoder, changes):
    alone = run(labelled, tiny_encoder, "alone", epochs=1, **changes)
    found = run(labelled, tiny_encoder, "sum", epochs=1, lexical_weight=0.4, **changes)
    assert found["fingerprint"] != alone["fingerprint"]
    assert run(labelled, tiny_encoder, "again", epochs=1, lexical_weight=0.4, **changes)["fingerprint"] == found["fingerprint"]


@pytest.mark.parametrize("form", ["none", "ranks"])
def test_a_release_that_serves_no_sum_is_refused(form):
    with pytest.raises(ConfigError, match=rf"train\.lexical_weight: .*fusion\.form={form} serves no such sum"):
        load_settings("params.yaml", ["train.lexical_weight=0.5", f"fusion.form={form}"])
    assert load_settings("params.yaml", ["train.lexical_weight=0.5"]).train.lexical_weight == 0.5


def test_masks_do_not_change_with_what_is_added():
    utilities, masks = label_rows(list(ROWS.values()), TEXTS, in_batch_negatives=True)
    assert torch.equal(
        torch.stack([utilities, *(mask.float() for mask in masks)]), labels(LexicalPart(PASSAGES, "corpus", 2.0))[:4]
    )
