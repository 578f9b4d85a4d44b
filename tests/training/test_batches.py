from itertools import pairwise

import torch
from datasets import Dataset

from uae.training.batches import DocumentBatchSampler, UtilityCollator, label_rows
from uae.training.examples import Example

NAN = float("nan")


def example(question="q", passages=("aa", "b"), utilities=(1.0, -0.5), negatives=(), evidence=(), ignored=()) -> Example:
    sets = (frozenset(texts) for texts in (negatives, evidence, ignored))
    return Example(question, "d", tuple(passages), tuple(utilities), *sets)


def preprocess(texts, prompt=None, task=None):
    return {"input_ids": torch.tensor([[len((prompt or "") + text)] for text in texts])}


FIRST = example("q1", ("aa", "b"), (1.0, -0.5))
SECOND = example("q22", ("b", "cccc"), (0.25, 2.0))


def collate(**changes) -> dict:
    collator = UtilityCollator(
        preprocess_fn=preprocess, examples={"1": FIRST, "2": SECOND}, prompts_by_kind={"document": "x", "query": None}, **changes
    )
    return collator([{"key": "1"}, {"key": "2"}])


def test_a_shared_passage_is_one_column_and_a_candidate_of_both():
    batch = collate()
    assert batch["question_input_ids"].tolist() == [[2], [3]]
    assert batch["passage_input_ids"].tolist() == [[3], [2], [5]]  # aa, b, cccc once each, with their prompt
    utilities, candidates, negatives, evidence, added = batch["label"]
    assert utilities.tolist() == [[1.0, -0.5, 0.0], [0.0, 0.25, 2.0]]
    assert candidates.tolist() == [[1, 1, 0], [0, 1, 1]]
    assert negatives.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert not evidence.any()
    assert not added.any()


def test_without_in_batch_negatives_only_the_named_ones_count():
    assert not collate(in_batch_negatives=False)["label"][2].any()


def test_vectors_of_frozen_passages_are_looked_up_not_encoded():
    batch = collate(passage_vectors=lambda texts: torch.tensor([[float(len(text))] for text in texts]))
    assert batch["passage_sentence_embedding"].tolist() == [[2.0], [1.0], [4.0]]
    assert "passage_input_ids" not in batch


def test_what_is_held_against_a_question_and_what_is_not():
    row = example(
        passages=("good", "bad", "gold"), utilities=(1.0, NAN, NAN), negatives=["bad"], evidence=["gold"], ignored=["twin"]
    )
    columns = ["good", "bad", "gold", "twin", "other"]
    for in_batch, expected in ((True, [0, 1, 0, 0, 1]), (False, [0, 1, 0, 0, 0])):
        utilities, masks = label_rows([row], columns, in_batch)
        assert utilities.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]
        assert masks.candidates[0].tolist() == [True, False, False, False, False]
        assert masks.negatives[0].tolist() == [bool(value) for value in expected]
        assert masks.evidence[0].tolist() == [False, False, True, False, False]


def sampler(size: int = 4, seed: int = 3) -> DocumentBatchSampler:
    documents = ["a"] * 5 + ["b"] * 4 + ["c"] * 3
    return DocumentBatchSampler(Dataset.from_dict({"document": documents}), batch_size=size, drop_last=False, seed=seed)


def test_every_question_once_an_epoch_and_documents_stay_together():
    batches = list(sampler())
    order = [row for batch in batches for row in batch]
    assert sorted(order) == list(range(12))
    assert len(batches) == len(sampler()) == 3
    documents = ["aaaaabbbbccc"[row] for row in order]
    assert sum(a != b for a, b in pairwise(documents)) == 2


def test_epochs_differ_and_seeds_repeat():
    first, second = sampler(), sampler()
    assert list(first) == list(second)
    assert list(first) != list(sampler(seed=4))
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(sampler(seed=4)) != list(second)  # a seed's second epoch is no other seed's first
