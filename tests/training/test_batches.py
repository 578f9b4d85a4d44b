from itertools import pairwise

import torch
from datasets import Dataset

from uae.training.batches import DocumentBatchSampler, UtilityCollator


def preprocess(texts, prompt=None):
    return {"input_ids": torch.tensor([[len((prompt or "") + text)] for text in texts])}


def test_a_shared_passage_is_one_column_and_a_candidate_of_both():
    rows = [
        {"question": "q1", "passages": ["aa", "b"], "utilities": [1.0, -0.5], "document": "d"},
        {"question": "q22", "passages": ["b", "cccc"], "utilities": [0.25, 2.0], "document": "d"},
    ]
    batch = UtilityCollator(preprocess_fn=preprocess, query_prompt="", document_prompt="x")(rows)
    assert batch["question_input_ids"].tolist() == [[2], [3]]
    assert batch["passage_input_ids"].tolist() == [[3], [2], [5]]  # aa, b, cccc once each, with their prompt
    assert batch["label"][0].tolist() == [[1.0, -0.5, 0.0], [0.0, 0.25, 2.0]]
    assert batch["label"][1].tolist() == [[1, 1, 0], [0, 1, 1]]


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
