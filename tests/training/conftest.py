"""What the tests of training start from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from uae.io.files import write_json
from uae.io.tables import CANDIDATES, PASSAGES, QUESTIONS, write_table
from uae.teacher.keys import answer_id
from uae.teacher.store import LabelStore


@pytest.fixture
def labelled(tmp_path, by_texts) -> Path:
    return write_labelled(tmp_path, by_texts)


def write_labelled(folder: Path, by_texts: Callable) -> Path:
    """Twelve questions over six passages each; the teacher finds the passage of the same number useful."""
    names = ["seal", "fan", "key", "lamp", "door", "coil", "pump", "hose", "rack", "tray", "lock", "vent"]
    questions, passages, pairs, readings = [], [], [], []
    for n, name in enumerate(names):
        place = {"doc_id": f"d{n % 4}", "title": "", "source": f"d{n % 4}", "section": "", "start": 0, "end": 1}
        passages.append(
            place | {"passage_id": f"p{n:02}", "position": n, "text": f"It stands on shelf {n}, beside {names[n - 5]}."}
        )
        questions.append(
            {"question_id": f"q{n:02}", "text": f"Where is the {name}?", "answers": [f"shelf {n}"], "doc_id": f"d{n % 4}"}
            | {"evidence": [f"p{n:02}"], "split": "train" if n < 8 else "validation", "origin": "human", "source": ""}
        )
        common = {"question_id": f"q{n:02}", "answer_id": answer_id(f"shelf {n}"), "template": "t", "teacher": "T"}
        readings.append(common | {"passage_id": "", "nll_sum": 9.0, "n_tokens": 3, "truncated": False})
        for step in range(6):
            other = f"p{(n + step) % 12:02}"
            pairs.append({"question_id": f"q{n:02}", "passage_id": other, "source": "dense", "rank": step + 1, "score": 0.5})
            nll = 1.0 if step == 0 else 9.0
            readings.append(common | {"passage_id": other, "nll_sum": nll, "n_tokens": 3, "truncated": False})
    write_table(folder / "questions.parquet", QUESTIONS, questions)
    write_table(folder / "passages.parquet", PASSAGES, passages)
    write_table(folder / "candidates.parquet", CANDIDATES, pairs)
    store = LabelStore(folder / "labels", 1000)
    with store.writing():
        store.append(by_texts(readings, questions, passages), {"backend": "made up"})
    teacher = {"name": "main", "fingerprint": "T", "method": "answer_likelihood", "grades": [], "weight": 1.0}
    teacher |= {"templates": {"t": {}}, "check_templates": {}}
    write_json(folder / "labels.json", {"teachers": [teacher], "answers_per_question": 1})
    return folder
