"""Peak memory and seconds of each stage by the number of passages, on a corpus that our own code writes.

Every stage runs in a process of its own, through the functions that the chain calls. Reported are the peak of all resident
memory (``rss_mb``), and of the part that no file stands behind (``anon_mb``): what the system cannot give back by itself.
``cpu_s`` is processor time, which other work on the machine distorts less than ``wall_s``. Encoder and language model are tiny
ones with random weights; the encoder's vectors have 384 numbers. Questions are asked of the whole corpus, or with
``--scope document`` within their documents.

The chain's settings are its own, but for these. Queries alone are trained for (``train.towers``), and no fold is trained to fuse
(``fusion.folds``): so the corpus is embedded once, in ``embed``. The student's, and each fold's, would be embedded as it is
there. The reader answers two questions. The gate lets everything pass, so that the second release finds a
champion. ``ingest_again`` reads the corpus with every hundredth document changed, over the ledger of the first run, and
``refresh`` builds a release of it and compares the two.

A line through the processor seconds of the smaller sizes predicts the largest. ``fit_error`` is how far off it is, as a share of
what was measured. ``predicted_1m_error`` is the same where the largest is a million, else null. ``extrapolated_1m_seconds`` is
what a line through all sizes says of a million, and no measurement. Finished measurements are kept in --out. Prints one JSON
line last.

python benchmarks/scale_memory.py --out runs/scale --sizes 10000 --sizes 30000 --sizes 100000 --sizes 1000000
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

SIZES = [10_000, 30_000, 100_000]
_MILLION = 1_000_000
_AGAIN = "_again"  # the same stage, over the changed corpus
STAGES = (
    "nothing", "ingest", "validate", "embed", "candidates", "label", "train", "fuse", "index", "evaluate", "promote",
    f"ingest{_AGAIN}", f"validate{_AGAIN}", "refresh",
)  # fmt: skip
QUESTIONS = 300
DIMENSION = 384
_SECTIONS, _SENTENCES, _WORDS = 10, 5, 12  # a document's sections, a section's sentences, a sentence's words
_VOCABULARY = 30_000
_CHANGED = 100  # of so many documents one is changed
_SETTINGS = [
    "ingest.format=jsonl", "label.check_questions=0", "index.base=false", "index.min_cosine=0.5", "index.max_recall_loss=1",
    "compute.device=cpu", "train.towers=query", "fusion.folds=0", "evaluate.reader_passages=[1]",
    "evaluate.reader_orders=[best_first]", "evaluate.reader_questions=2", "evaluate.reader_new_tokens=2",
    "evaluate.llm.questions=0", "evaluate.resamples=100", "promote.guarded=[]", "promote.min_gain=-1", "promote.max_loss=1",
    "promote.great_loss=1", "promote.min_cosine=0", "promote.max_serving_loss=1", "promote.max_index_loss=1",
    "promote.max_slowdown=1000",
]  # fmt: skip


def vocabulary(rng: np.random.Generator) -> list[str]:
    """Made-up words of two to four syllables, all different."""
    syllables = [a + b for a in "bdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        words["".join(rng.choice(syllables, rng.integers(2, 5)))] = None
    return list(words)


def documents(passages: int, seed: int) -> Iterator[list[list[str]]]:
    """Each document's sections, each a list of sentences; word frequencies fall as the inverse of the rank (Zipf)."""
    rng = np.random.default_rng(seed)
    words = np.array(vocabulary(rng), dtype=object)
    shares = 1 / np.arange(1, _VOCABULARY + 1)
    steps = np.cumsum(shares / shares.sum())
    for start in range(0, passages, _SECTIONS):
        count = min(_SECTIONS, passages - start)
        drawn = words[np.searchsorted(steps, rng.random((count, _SENTENCES, _WORDS)))]
        yield [[" ".join(sentence).capitalize() + "." for sentence in section] for section in drawn]


def write_corpus(folder: Path, passages: int, questions: int, seed: int, changed: bool = False) -> None:
    """documents.jsonl and questions.jsonl, as the format ``jsonl`` has them; nothing of it is kept in memory.

    Args:
        changed: of every hundredth document each section ends with other words. No question asks for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = max(1, passages // _SECTIONS // questions)
    rng = np.random.default_rng(seed + 1)
    with (
        open(folder / "documents.jsonl", "w", encoding="utf-8") as texts,
        open(folder / "questions.jsonl", "w", encoding="utf-8") as asked,
    ):
        left = questions
        for number, sections in enumerate(documents(passages, seed)):
            if changed and not number % _CHANGED:
                sections = [[*section[:-1], " ".join(reversed(section[-1].split()))] for section in sections]
            parts = [{"title": f"Part {place}", "text": " ".join(section)} for place, section in enumerate(sections, 1)]
            texts.write(json.dumps({"id": f"d{number}", "title": f"Document {number}", "sections": parts}) + "\n")
            if number % every or not left:
                continue
            left -= 1
            sentence = sections[int(rng.integers(len(sections)))][0]
            words = sentence.rstrip(".").split()
            row = {"question": f"Where does it say {' '.join(words[1:7])}?", "answers": [" ".join(words[5:10])],
                   "document": f"d{number}", "evidence": [sentence]}  # fmt: skip
            asked.write(json.dumps(row) + "\n")


def write_models(folder: Path, seed: int) -> list[str]:
    """Tiny models whose tokenizer knows the corpus's words, with vectors of ``DIMENSION`` numbers. Returns their settings."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from tiny_models import tiny_models

    texts = folder / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(section) for sections in documents(5000, seed) for section in sections]
    (texts / "words.md").write_text("\n".join(lines), encoding="utf-8")
    settings = tiny_models(folder, texts)
    small = SentenceTransformer(str(folder / "encoder"), device="cpu")
    torch.manual_seed(0)
    wider = Dense(in_features=int(small.get_embedding_dimension() or 0), out_features=DIMENSION)
    modules = [small[0], small[1], wider, Normalize()]
    shutil.rmtree(folder / "encoder")
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"), create_model_card=False)
    return settings


def run(stage: str, root: Path, settings: Sequence[str]) -> None:
    """One stage, in this process."""
    from uae.pipeline.chain import STAGES as CHAIN
    from uae.pipeline.chain import run_stage
    from uae.pipeline.settings import load_settings
    from uae.pipeline.workspace import Workspace

    read = load_settings(Path("params.yaml"), list(settings))
    w = Workspace(root, root.parent / "models", flat_reports=True)
    if stage == "nothing":
        import sentence_transformers  # noqa: F401  # the floor that each stage with an encoder stands on
    elif stage == "embed":
        _embed(w, read)
    elif stage == "refresh":
        from uae.pipeline.refresh import refresh

        refresh(read, w)
    else:
        run_stage(CHAIN[stage.removesuffix(_AGAIN)], read, w)


def _embed(w, read) -> None:
    """Every passage's vector by the base encoder into the store, as the first stage that needs one does it."""
    from uae.pipeline.student import student_folder
    from uae.retrievers.dense import load_encoder
    from uae.retrievers.passage_vectors import PassageVectors
    from uae.text.passage_template import PassageTemplate
    from uae.text.stored_passages import StoredPassages
    from uae.vectors.store import VectorStore

    folder = student_folder(read.models, w.model_cache)
    texts = StoredPassages(w.path("passages")).texts(PassageTemplate(read.passages.template))
    PassageVectors(load_encoder(folder, "cpu"), folder, VectorStore(w.vectors))(texts, "")


def measured(command: Sequence[str]) -> dict:
    """Run a process to its end: its peaks, and its time.

    Raises:
        RuntimeError: it failed; the message holds the end of what it said.
    """
    start, peaks = time.monotonic(), {"VmHWM": 0, "RssAnon": 0}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        status = Path(f"/proc/{child.pid}/status")
        while True:
            pid, code, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            for line in status.read_text(encoding="utf-8").splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))
            time.sleep(0.02)
        child.returncode = os.waitstatus_to_exitcode(code)
        said.seek(0)
        told = said.read()[-4000:]
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{told}")
    return {
        # Not ru_maxrss: a child's starts with what its parent had when it was forked.
        "rss_mb": round(peaks["VmHWM"] / 1024, 1),
        "anon_mb": round(peaks["RssAnon"] / 1024, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.monotonic() - start, 1),
    }


def measure(
    out: Path,
    sizes: Sequence[int] = SIZES,
    stages: Sequence[str] = STAGES,
    seed: int = 0,
    keep: bool = False,
    scope: str = "corpus",
) -> dict:
    """Peaks and seconds by stage and size, the growth of each from size to size, and the fit.

    Args:
        out: where corpora, runs and finished measurements lie. A measurement that is there is not taken again.
        keep: leave the tables of each size in place; else they go when their size is done.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "models.json").exists():
        (out / "models.json").write_text(json.dumps(write_models(out / "tiny", seed)), encoding="utf-8")
    models = json.loads((out / "models.json").read_text(encoding="utf-8"))
    found: dict[str, dict[int, dict]] = {stage: {} for stage in stages}
    for size in sizes:
        root, source = out / f"run-{size}", out / f"corpus-{size}"
        settings = [*_SETTINGS, *models, f"scope={scope}", f"ingest.path={source}", f"tracking.uri=sqlite:///{root}/mlflow.db"]
        for stage in stages:
            kept = out / f"{size}-{stage}.json"
            if not kept.exists():
                if stage == f"ingest{_AGAIN}" or not (source / "questions.jsonl").exists():
                    write_corpus(source, size, QUESTIONS, seed, changed=stage == f"ingest{_AGAIN}")
                result = measured([sys.executable, __file__, "--stage", stage, "--out", str(root), *_pairs(settings)])
                kept.write_text(json.dumps(result), encoding="utf-8")
                print(f"{size} {stage}: {result}", file=sys.stderr, flush=True)
            found[stage][size] = json.loads(kept.read_text(encoding="utf-8"))
        if not keep:
            for folder in (root, source):
                shutil.rmtree(folder, ignore_errors=True)
    return summary(found, sizes)


def _pairs(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def summary(found: dict[str, dict[int, dict]], sizes: Sequence[int]) -> dict:
    """What ``measure`` gives, from the single measurements."""
    largest, before = max(sizes), sorted(sizes)[-2] if len(sizes) > 1 else None
    small = [size for size in sizes if size < largest]
    errors = {stage: fitted_error(of_stage, small, largest) for stage, of_stage in found.items()}
    total = {size: {"cpu_s": sum(of_stage[size]["cpu_s"] for of_stage in found.values())} for size in sizes}
    return {
        "questions": QUESTIONS,
        "dimension": DIMENSION,
        "peak_memory_mb": {stage: {size: row["rss_mb"] for size, row in of_stage.items()} for stage, of_stage in found.items()},
        "anon_memory_mb": {stage: {size: row["anon_mb"] for size, row in of_stage.items()} for stage, of_stage in found.items()},
        "seconds": {stage: {size: row["cpu_s"] for size, row in of_stage.items()} for stage, of_stage in found.items()},
        "wall_seconds": {stage: {size: row["wall_s"] for size, row in of_stage.items()} for stage, of_stage in found.items()},
        "growth": {
            stage: round(of_stage[largest]["anon_mb"] / of_stage[before]["anon_mb"], 2) for stage, of_stage in found.items()
        }
        if before
        else {},
        "fit_error_by_stage": errors,
        "fit_error": fitted_error(total, small, largest),
        "predicted_1m_error": fitted_error(total, small, largest) if largest == _MILLION else None,
        "extrapolated_1m_seconds": {stage: extrapolated(of_stage) for stage, of_stage in found.items()},
    }


def fitted_error(of_size: dict[int, dict], small: Sequence[int], largest: int) -> float | None:
    """How far a line through the processor seconds of the small sizes is off at the largest, as a share of what was measured.

    None: fewer than two small sizes.
    """
    if len(small) < 2:
        return None
    real = of_size[largest]["cpu_s"]
    return round((_line({size: of_size[size] for size in small}, largest) - real) / real, 3)


def extrapolated(of_size: dict[int, dict]) -> float | None:
    """What a line through the processor seconds says of a million passages; None: there are fewer than two sizes."""
    return round(_line(of_size, _MILLION), 1) if len(of_size) > 1 else None


def _line(of_size: dict[int, dict], at: int) -> float:
    slope, start = np.polyfit(np.array(list(of_size), float), [row["cpu_s"] for row in of_size.values()], 1)
    return float(slope * at + start)


def main(
    out: Annotated[Path, typer.Option(help="Where corpora, runs and finished measurements are kept.")] = Path("runs/scale"),
    sizes: Annotated[list[int], typer.Option()] = SIZES,
    stages: Annotated[list[str] | None, typer.Option(help="All, where none is named.")] = None,
    seed: int = 0,
    keep: Annotated[bool, typer.Option(help="Leave the tables of each size in place.")] = False,
    scope: Annotated[str, typer.Option(help="corpus or document. Use another --out for each.")] = "corpus",
    stage: Annotated[str, typer.Option(hidden=True)] = "",
    set: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
) -> None:
    if stage:
        run(stage, out, set or [])
        return
    print(json.dumps(measure(out, sizes, stages or STAGES, seed, keep, scope)))


if __name__ == "__main__":
    typer.run(main)
