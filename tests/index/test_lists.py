"""An index whose lists were written straight to its file is the one that FAISS collects in memory and writes."""

import faiss
import numpy as np
import pytest

from uae.index import lists
from uae.index.ann import POINTS_PER_LIST, build_index, write_built
from uae.io.errors import ArtefactError, ConfigError


def unit(n, dimension, seed=0, different=None):
    rows = np.random.default_rng(seed).standard_normal((different or n, dimension)).astype(np.float32)
    return np.resize(rows / np.linalg.norm(rows, axis=1, keepdims=True), (n, dimension))


KINDS = ["IVF16,SQ8", "IVF16,Flat", "IVF16,PQ8x4", "IVF4,SQ4", "HNSW8", "Flat", "IVF4,PQ8x4,Refine(SQ8)"]


@pytest.mark.parametrize("factory", KINDS)
@pytest.mark.parametrize("rows", [(1 << 16, 1 << 12), (200, 50)], ids=["one block", "several blocks"])
def test_the_file_has_the_bytes_of_the_index_in_memory(tmp_path, monkeypatch, factory, rows):
    monkeypatch.setattr(lists, "_ROWS", rows[0])
    monkeypatch.setattr(lists, "_FEWEST", rows[1])
    monkeypatch.setattr(lists, "_CODES", 70)
    vectors = unit(1030, 32)
    faiss.write_index(build_index(vectors, factory), str(tmp_path / "collected"))
    write_built(vectors, factory, tmp_path / "written")
    assert (tmp_path / "written").read_bytes() == (tmp_path / "collected").read_bytes()


def test_few_filled_lists_are_written_as_few(tmp_path):
    vectors = unit(200, 8, different=3)  # so that most of the lists are empty
    faiss.write_index(build_index(vectors, "IVF32,SQ8"), str(tmp_path / "collected"))
    write_built(vectors, "IVF32,SQ8", tmp_path / "written")
    assert (tmp_path / "written").read_bytes() == (tmp_path / "collected").read_bytes()
    index = faiss.read_index(str(tmp_path / "written"))
    assert np.abs(index.reconstruct_n(0, 200) - vectors).max() < 0.02


def test_no_block_of_rows_is_small():
    blocks = list(lists._blocks(2 * lists._ROWS + 5))
    assert blocks == [(0, lists._ROWS), (lists._ROWS, 2 * lists._ROWS + 5)]
    assert list(lists._blocks(0)) == []


@pytest.mark.parametrize("factory", ["IVF4,SQ8", "Flat", "HNSW8", "IVF4,PQ8x4,Refine(SQ8)"])
@pytest.mark.parametrize("most", [0, 500, 4000])
def test_a_full_disk_is_said(tmp_path, files_of_at_most, factory, most):
    with files_of_at_most(most), pytest.raises(ArtefactError, match=r"cannot write .*written: File too large.*Free some space"):
        write_built(unit(1000, 32), factory, tmp_path / "written")


def test_an_unknown_factory_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"index\.factory: FAISS cannot build 'IVF4,Nothing' over 100 vectors"):
        write_built(unit(100, 8), "IVF4,Nothing", tmp_path / "written")


class Read:
    """Vectors that tell which rows are read."""

    def __init__(self, vectors):
        self.vectors, self.shape, self.rows = vectors, vectors.shape, []

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        self.rows.append(np.arange(len(self))[rows])
        return self.vectors[rows]


def test_lists_learn_from_rows_that_are_read_in_their_order(tmp_path):
    vectors = Read(unit(2000, 8))
    write_built(vectors, "IVF4,Flat", tmp_path / "written")
    learnt_from = vectors.rows[0]
    assert len(learnt_from) == 4 * POINTS_PER_LIST
    assert (np.diff(learnt_from) > 0).all()
    assert learnt_from[-1] - learnt_from[0] > 1900
