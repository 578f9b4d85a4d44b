import subprocess
import sys

import pytest

from uae.teacher.store import LabelStore


def row(number: int) -> dict:
    return {
        "question_id": f"q{number}", "passage_id": "", "answer_id": "a", "template": "t", "teacher": "T", "nll_sum": 1.5 * number,
        "n_tokens": 2, "truncated": False,
    }  # fmt: skip


def test_what_is_appended_is_read(tmp_path):
    store = LabelStore(tmp_path / "labels")
    with store.writing():
        store.append([row(1), row(2)])
        store.append([row(3)])
    assert sorted(LabelStore(tmp_path / "labels").read()["question_id"]) == ["q1", "q2", "q3"]


def test_empty_store_reads_as_an_empty_table(tmp_path):
    assert LabelStore(tmp_path / "labels").read().empty


def test_damaged_part_is_set_aside_and_named(tmp_path, caplog):
    store = LabelStore(tmp_path / "labels")
    with store.writing():
        store.append([row(1)])
        store.append([row(2)])
    victim = sorted(store.folder.glob("*.parquet"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert len(store.read()) == 1
    assert victim.name in caplog.text
    assert not victim.exists()
    assert victim.with_suffix(".damaged").exists()


def test_second_labeller_is_refused(tmp_path):
    store = LabelStore(tmp_path / "labels")
    code = f"from uae.teacher.store import LabelStore\nwith LabelStore({str(tmp_path / 'labels')!r}).writing(): pass"
    with store.writing():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "another labeller" in done.stderr
    with pytest.raises(ZeroDivisionError), store.writing():
        _ = 1 / 0
    with store.writing():  # the lock went with the failed labeller
        pass


def test_equal_parts_have_equal_names(tmp_path):
    names = []
    for folder in ("a", "b"):
        store = LabelStore(tmp_path / folder)
        with store.writing():
            store.append([row(1)])
        names.append([p.name for p in store.folder.iterdir()])
    assert names[0] == names[1]
