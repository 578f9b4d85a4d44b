"""A year of changes: what each costs, whether the gate errs, and how long a file takes to be answered from. One JSON line last.

    python benchmarks/lifecycle.py [KEY=VALUE ...] [--parts PART ...] [--models tiny|real] [--cycle-models tiny|real]

**changes.** The bundled corpus is changed in eight ways. For each change and scope the chain runs twice, before the change and
after it, with both towers trained. The second run counts:

embedded          passages that an encoder read outside training itself
embedded_share    of one encoding of the corpus
pairs_asked       readings that the teacher was asked for
new_pairs_share   of the readings that there were before
stages_run        their names

Encoder, teacher and reader are tiny ones with random weights, made on the spot: what is counted are texts. ``--models real``
takes those of params.yaml, which is slow.

**gate.** The simulations of gate.py, at its defaults.

**cycle.** A release is made and served over HTTP (cycle.py), by the models of params.yaml. A file is dropped, answered from,
deleted and forgotten, and then all ways back are tried: ``dropped_to_served_s``, ``deleted_to_gone_s``,
``revived_by_rollback``. The times are from the file's change until the running service answers accordingly. ``uae refresh``
starts at once: in production the pause of whatever starts it comes on top.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gate
from cycle import cycle
from tiny_models import tiny_models

from uae.io.tables import PASSAGES, read_table
from uae.pipeline.run import run_chain
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.workspace import Workspace
from uae.teacher.store import LabelStore

SAMPLE = Path("data/sample")
UNTIL = "promote"  # what is served follows from the release; packing it embeds nothing
# One epoch, and few questions to the reader: neither changes what is counted here. Folds train students of their own.
QUICK = ["train.epochs=1", "evaluate.reader_questions=2", "evaluate.reader_more_questions=0", "evaluate.llm.questions=0",
         "evaluate.resamples=100", "evaluate.reader_new_tokens=2", "fusion.folds=0", "label.check_questions=0"]  # fmt: skip
PROMOTED = ["promote.min_gain=-1", "promote.max_loss=1", "promote.min_cosine=0", "promote.max_serving_loss=1",
            "promote.max_index_loss=1"]  # fmt: skip

PARTS = ("changes", "gate", "cycle")
MODELS = ("tiny", "real")

Questions = list[dict[str, Any]]


class Corpus:
    """A copy of the bundled corpus that changes in place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.restore()

    def restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(SAMPLE, self.folder)

    def questions(self) -> Questions:
        return [json.loads(line) for line in (self.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]

    def write(self, questions: Questions) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in questions)
        (self.folder / "questions.jsonl").write_text(lines, encoding="utf-8")

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def put(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    def trained(self) -> str:
        """The longest document whose questions are trained on."""
        names = {row["document"] for row in self.questions() if row["split"] == "train"}
        return max(sorted(names), key=lambda name: len(self.text(name)))


def add_1pct(corpus: Corpus) -> None:
    """A document of seven passages, 1 % of 677, and five questions on it that are trained on, 1 % of 468."""
    sites = ["Arvik", "Belden", "Corrie", "Dunmore", "Eskdal"]
    panels = [f"panel {number * 7 + 3}" for number in range(len(sites))]
    facts = [
        f"The spare key of the loading gate at {site} hangs behind {panel}." for site, panel in zip(sites, panels, strict=True)
    ]
    filler = "Nobody may open it alone, and whoever does writes the hour and the reason into the book that lies beside it. "
    sections = [f"## Gate of {site}\n\n{fact} {filler * 6}" for site, fact in zip(sites, facts, strict=True)]
    corpus.put("documents/gate-keys.md", "# Gate keys\n\n" + "\n\n".join(sections) + "\n\n## Losses\n\n" + filler * 10 + "\n")
    corpus.write(
        corpus.questions()
        + [
            {"id": f"gate{number}", "document": "documents/gate-keys.md", "split": "train", "evidence": [fact],
             "question": f"Where is a second key for the {site} gate kept?", "answers": [f"behind {panels[number]}"]}
            for number, (site, fact) in enumerate(zip(sites, facts, strict=True))
        ]
    )  # fmt: skip


def edit_sentence(corpus: Corpus) -> None:
    """One sentence in the middle of a long document, that is no question's evidence."""
    name, quotes = corpus.trained(), [quote for row in corpus.questions() for quote in row["evidence"]]
    text = corpus.text(name)
    sentences = list(re.finditer(r"(?<=[.] )[A-Z][^.#\n]{40,200}[.](?= )", text))
    free = [found for found in sentences if not any(found[0] in quote or quote in found[0] for quote in quotes)]
    chosen = min(free, key=lambda found: abs(found.start() - len(text) / 2))
    corpus.put(name, text[: chosen.start()] + "This was written anew in the last week of the year." + text[chosen.end() :])


def rename(corpus: Corpus) -> None:
    name = corpus.trained()
    _move(corpus, name, "documents/archive/" + Path(name).name, corpus.text(name))


def delete_1pct(corpus: Corpus) -> None:
    """The shortest document with its questions: no document of the corpus is as short as 1 % of it."""
    name = min(sorted({row["document"] for row in corpus.questions()}), key=lambda name: len(corpus.text(name)))
    (corpus.folder / name).unlink()
    corpus.write([row for row in corpus.questions() if row["document"] != name])


def edit_answer(corpus: Corpus) -> None:
    questions = corpus.questions()
    row = next(row for row in questions if row["split"] == "train")
    row["answers"] = ["it was put in other words", *row["answers"]]
    corpus.write(questions)


def split_file(corpus: Corpus) -> None:
    """The second half of a long document, from a heading on, becomes a file of its own."""
    name = corpus.trained()
    text = corpus.text(name)
    headings = [found.start() for found in re.finditer(r"^## ", text, flags=re.MULTILINE)]
    place = min(headings, key=lambda start: abs(start - len(text) / 2))
    title = text.split("\n", 1)[0]
    corpus.put(name, text[:place])
    second = name.replace(".md", "-2.md")
    corpus.put(second, f"{title}\n\n{text[place:]}")
    questions = corpus.questions()
    for row in questions:
        if row["document"] == name and any(quote in text[place:] for quote in row["evidence"]):
            row["document"] = second
    corpus.write(questions)


def _move(corpus: Corpus, name: str, target: str, text: str) -> None:
    (corpus.folder / name).unlink()
    corpus.put(target, text)
    corpus.write([row | {"document": target if row["document"] == name else row["document"]} for row in corpus.questions()])


CHANGES: dict[str, Callable[[Corpus], None]] = {
    "nothing": lambda corpus: None,
    "add_1pct": add_1pct,
    "edit_sentence": edit_sentence,
    "rename": rename,
    "delete_1pct": delete_1pct,
    "edit_answer": edit_answer,
    "split_file": split_file,
    "there_and_back": edit_sentence,  # and the text as it was again: the way back is counted
}


def run(settings: Settings, out: Path) -> dict[str, Any]:
    """Run the chain. Returns what it cost."""
    summaries: dict[str, dict[str, Any]] = {}

    def told(stage: str, summary: dict[str, Any]) -> None:
        summaries[stage] = summary

    run_chain(settings, out, Path("models"), lambda line: print(line, file=sys.stderr), UNTIL, told)
    embedded = {name: said["vectors_embedded"] for name, said in summaries.items() if said.get("vectors_embedded")}
    w = Workspace(out, flat_reports=True)
    return {
        "embedded": sum(embedded.values()),
        "embedded_by_stage": embedded,
        "embedded_tokens": sum(said.get("vectors_embedded_tokens", 0) for said in summaries.values()),
        "pairs_asked": summaries["label"]["readings_asked_now"] if "label" in summaries else 0,
        "stages_run": list(summaries),
        "passages": len(read_table(w.path("passages"), PASSAGES)),
        "readings": len(LabelStore(w.path("labels")).keys()),
    }


def measure(name: str, corpus: Corpus, settings: Settings, before: Path, out: Path) -> dict[str, Any]:
    """The change and its run, in a copy of the run before. MLflow keeps databases open by their path, so no path comes twice."""
    shutil.copytree(before, out)
    corpus.restore()
    CHANGES[name](corpus)
    found = run(settings, out)
    if name == "there_and_back":
        corpus.restore()
        found = run(settings, out)
    return found


def changes(
    scratch: Path, names: list[str], scopes: list[str], models: list[str], settings: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """By change and by scope: what it cost. And what the first run cost, by scope."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    full: dict[str, Any] = {}
    corpus = Corpus(scratch / "corpus")
    for scope in scopes:
        overrides = [*QUICK, *PROMOTED, *models, f"ingest.path={corpus.folder}", "ingest.format=folder", f"scope={scope}"]
        chosen = load_settings(Path("params.yaml"), [*overrides, *settings])
        corpus.restore()
        before = scratch / f"{scope}-before"
        full[scope] = run(chosen, before)
        for name in names:
            cost = measure(name, corpus, chosen, before, scratch / f"{scope}-{name}")
            found[name][scope] = cost | {
                "embedded_share": round(cost["embedded"] / full[scope]["passages"], 4),
                "new_pairs_share": round(cost["pairs_asked"] / full[scope]["readings"], 4),
            }
            print(name, scope, json.dumps(found[name][scope]), file=sys.stderr)
    return found, full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--models", choices=MODELS, default="tiny", help="of the changes")
    parser.add_argument("--cycle-models", choices=MODELS, default="real", help="of the cycle")
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES), help="these changes")
    parser.add_argument("--scopes", nargs="+", choices=["document", "corpus"], default=["document", "corpus"])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the changes")
    given = parser.parse_args()
    shown: dict[str, Any] = {"models": {"changes": given.models, "cycle": given.cycle_models}}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tiny = tiny_models(scratch / "models", SAMPLE)
        by_name = {"tiny": tiny, "real": []}
        if "changes" in given.parts:
            found, full = changes(scratch, given.only, given.scopes, by_name[given.models], given.settings)
            shown |= {"first_run": full, "changes": found}
        if "gate" in given.parts:
            shown["gate"] = gate.measure()
        if "cycle" in given.parts:
            told = cycle(scratch / "cycle", SAMPLE, by_name[given.cycle_models], Path("models"))
            headline = ("dropped_to_served_s", "deleted_to_gone_s", "revived_by_rollback")
            shown |= {name: told.pop(name) for name in headline} | {"cycle": told}
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
