"""Texts that an encoder cuts are counted, as those that a teacher cuts are."""

import logging

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.truncation import count_truncated

SHORT, LONG = "The seal is blue.", "The seal of the door is blue and round. " * 40


@pytest.fixture
def encoder(tiny_encoder) -> SentenceTransformer:
    return load_encoder(tiny_encoder, "cpu")


def test_texts_longer_than_the_encoder_reads_are_counted(encoder):
    assert count_truncated(encoder, [SHORT, LONG, LONG], "document") == 2
    assert count_truncated(encoder, [], "document") == 0
    beginning, whole = encode(encoder, [LONG[: len(LONG) // 2], LONG], "document")
    assert np.array_equal(beginning, whole)  # what is counted is cut indeed


def test_the_limit_is_met_exactly_and_the_prompt_counts(encoder):
    tokens = len(encoder.tokenizer(SHORT)["input_ids"])
    encoder.max_seq_length = tokens
    assert count_truncated(encoder, [SHORT], "document") == 0
    encoder.prompts["document"] = "passage: "
    assert count_truncated(encoder, [SHORT], "document") == 1
    assert count_truncated(encoder, [SHORT], "query") == 0


def test_counting_changes_no_later_vector(encoder):
    before = encode(encoder, [LONG], "document")
    count_truncated(encoder, [LONG], "document")
    assert np.array_equal(encode(encoder, [LONG], "document"), before)


def test_an_encoder_without_a_limit_cuts_nothing(encoder, caplog):
    encoder.max_seq_length = None
    with caplog.at_level(logging.WARNING):
        assert count_truncated(encoder, [LONG], "document") == 0
    assert caplog.text == ""
