"""Which students encode the passages anew to refresh their candidates."""

import pytest
from small_training import finds_nothing_useful, run

import uae.retrievers.cosine
from uae.io.tables import CANDIDATES, read_table
from uae.retrievers.dense import encode


@pytest.mark.parametrize(("towers", "sides"), [("both", {"query", "document"}), ("query", {"query"}), ("adapter", {"query"})])
def test_passages_are_encoded_to_refresh_only_where_training_moves_their_vectors(
    labelled, tiny_encoder, monkeypatch, towers, sides
):
    encoded = set()

    def watched(encoder, texts, side, *rest):
        encoded.add(side)
        return encode(encoder, texts, side, *rest)

    monkeypatch.setattr(uae.retrievers.cosine, "encode", watched)
    run(labelled, tiny_encoder, towers, towers=towers, epochs=2, rounds=1, ask=finds_nothing_useful(labelled, towers))
    found = read_table(labelled / f"{towers}-refreshed.parquet", CANDIDATES)
    assert (found["source"] == "refreshed").any()
    assert encoded == sides
