"""What models should read of a passage: text alone, or section and title, too. By the untrained demo encoder and BM25.

Passages are ranked inside the question's own document; all splits count unless --split names one.
Prints one JSON line last: corpus -> template -> system -> recall@1 and map.

python benchmarks/templates.py folder:data/sample squad:200423_covidQA.json
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.metrics import retrieval_metrics
from uae.measures.ranking import rank
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.lexical import rank_bm25
from uae.text.passage_template import PLAIN, PassageTemplate

TEMPLATES = {
    "none": PLAIN,
    "section": "{section}\n{text}",
    "title": "{title}\n{text}",
    "title and section": "{title}\n{section}\n{text}",
}


def main(
    corpora: Annotated[list[str], typer.Argument(help="FORMAT:PATH, formats as ingest.format")],
    split: Annotated[str, typer.Option(help="train, validation or test; empty: all")] = "",
    changed: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE")] = None,
) -> None:
    print(json.dumps({corpus: measure(*corpus.split(":", 1), split, changed or []) for corpus in corpora}))


def measure(format: str, path: str, split: str, changed: list[str]) -> dict:
    settings = load_settings(Path("params.yaml"), [f"ingest.format={format}", f"ingest.path={path}", *changed])
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        run_stage(STAGES["ingest"], settings, workspace)
        passages, questions = (read_table(workspace.path(n), s) for n, s in (("passages", PASSAGES), ("questions", QUESTIONS)))
        encoder = load_encoder(student_folder(settings.models, workspace.model_cache), settings.compute.device)
    asked = questions[(questions["evidence"].str.len() > 0) & (questions["split"].eq(split) | (split == ""))].reset_index(
        drop=True
    )
    passages = passages[passages["doc_id"].isin(set(asked["doc_id"]))]
    evidence = dict(zip(asked["question_id"], asked["evidence"], strict=True))
    vectors = encode(encoder, asked["text"].tolist(), "query")

    def figures(rankings: dict[str, list[str]]) -> dict[str, float]:
        return retrieval_metrics(rankings, evidence, [1])[["recall@1", "map"]].mean().round(4).to_dict()

    def by_system(read: pd.DataFrame) -> dict[str, dict[str, float]]:
        found = rank(asked, read, vectors, encode(encoder, read["text"].tolist(), "document"), "document")
        return {
            "base": figures({ranking.question_id: ranking.passage_ids for ranking in found}),
            "bm25": figures({key: ids for key, (ids, _) in rank_bm25(asked, read, "document", None).items()}),
        }

    counts = {"questions": len(asked), "documents": int(asked["doc_id"].nunique()), "passages": len(passages)}
    return counts | {name: by_system(PassageTemplate(template).applied(passages)) for name, template in TEMPLATES.items()}


if __name__ == "__main__":
    typer.run(main)
