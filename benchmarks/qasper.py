"""Where utility labels help on QASPER: UAE against InfoNCE on evidence labels, and both together, on papers unseen in training.

The file holds questions with their answers and the paragraphs that annotators marked, not the papers' full texts. So a question
is asked of all paragraphs of its own paper that are evidence for any question: passages that look right, some of which do not
help. A paper with one such paragraph asks nothing and is left out. Finished parts are kept in --out. Prints one JSON line last.

python benchmarks/qasper.py --data ../shared/data/qasper/qasper_dev_evidence.json --out runs/qasper
python benchmarks/qasper.py --data FILE --out runs/qasper --few 0.1 --few 0.25
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from covidqa import CONTENDERS, GOLD, MIXED, UAE, Bench, brief, ends, means

from uae.evaluation.testset import BASE
from uae.io.files import read_json, write_text

# Every paragraph of the paper is a candidate, and evidence puts none into the pool.
SETTINGS = (
    "ingest.format=jsonl",
    "ingest.split={train: 0.5, validation: 0.1, test: 0.4}",
    "validate.min_words_per_passage=1",
    "candidates.top_k=16",
    "candidates.random=0",
    "candidates.gold=false",
    "passages.template='{text}'",  # the headings in the source are only numbers of paragraphs
)
PICTURE = "FLOAT SELECTED"  # a figure or table: only its caption is there


def write_source(data: Path, folder: Path) -> None:
    """The file as documents.jsonl and questions.jsonl."""
    paragraphs: dict[str, dict[str, None]] = defaultdict(dict)
    asked = []
    for row in read_json(data).values():
        evidence = [text.strip() for text in row["evidence"] if text.strip() and not text.startswith(PICTURE)]
        answer = ", ".join(dict.fromkeys(span.strip() for span in row["extractive_spans"] if span.strip()))
        if evidence and answer:
            paragraphs[row["article_id"]].update(dict.fromkeys(evidence))
            asked.append(
                {"question": row["text"].strip(), "answers": [answer], "document": row["article_id"], "evidence": evidence}
            )
    papers = {key: sorted(texts) for key, texts in paragraphs.items() if len(texts) > 1}
    documents = [
        # Titles that differ keep paragraphs apart where documents are cut into passages.
        {"id": key, "title": key, "sections": [{"title": f"paragraph {n}", "text": text} for n, text in enumerate(texts, 1)]}
        for key, texts in papers.items()
    ]
    for name, rows in (("documents", documents), ("questions", [row for row in asked if row["document"] in papers])):
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def main(
    data: Annotated[Path, typer.Option(help="QASPER's dev questions with their evidence paragraphs.")],
    out: Annotated[Path, typer.Option(help="Where finished parts are kept.")] = Path("runs/qasper"),
    seeds: int = 3,
    both_seeds: Annotated[int | None, typer.Option(help="Of these, for both kinds of labels together; default: all.")] = None,
    few: Annotated[list[float], typer.Option(help="Also compare with so small a share of the evidence labels.")] = (),
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    write_source(data, out / "source")
    bench = Bench([f"ingest.path={out / 'source'}", *SETTINGS, *overrides], out, seeds, "document")
    result = bench.compared(CONTENDERS[:2], bench.seeds, bench.folder)
    both = bench.compared([CONTENDERS[0], CONTENDERS[2]], bench.seeds[:both_seeds], bench.folder)
    gains, over = result["gains"][UAE], result["gains_over"][UAE]
    scopes = bench.passages.groupby("doc_id").size()
    line = {
        "n_questions": result["questions"],
        "n_documents": result["documents"],
        "passages_per_document": round(float(scopes[bench.questions["doc_id"]].mean()), 1),
        "seeds": result["seeds"],
        **{name: means(result["systems"][name]) for name in (BASE, UAE, GOLD)},
        MIXED: means(both["systems"][MIXED]) | {"seeds": both["seeds"]},
        "by_seed": {name: values["recall@1"] for name, values in (both["by_seed"] | result["by_seed"]).items()},
        "relative_gain": {metric: gains[metric]["relative"]["mean"] for metric in ("recall@1", "map")},
        "ci95": {metric: ends(gains[metric]["relative"]) for metric in ("recall@1", "map")},
        "p_value": {metric: gains[metric]["p_value"] for metric in ("recall@1", "map")},
        "ci95_by_document": {metric: ends(gains[metric]["by_document"]["relative"]) for metric in ("recall@1", "map")},
        "gold_infonce_over_uae": {metric: brief(over[GOLD][metric]) for metric in ("recall@1", "map")},
        "both_over_gold_infonce": bench.over(MIXED, GOLD, both["seeds"]),
        "few_evidence": {str(share): bench.few_evidence(share, seeds) for share in few},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
