"""What models should read of a passage: text alone, or section, title and neighbouring sentences, too.

By the untrained demo encoder and BM25, in both scopes, on the test questions. How the two are joined (convex_base) is chosen on
train and validation questions.
Prints one JSON line last: corpus -> scope -> template -> system -> recall@1 and map.

python benchmarks/templates.py folder:data/sample squad:200423_covidQA.json
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from uae.evaluation.fused import choosing_questions, only, strongest_untrained
from uae.evaluation.testset import choose_questions
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.measures.ranking import rank
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.lexical import rank_bm25
from uae.retrievers.protocol import Vectors
from uae.text.passage_template import PLAIN, PassageTemplate

SCOPES = ("document", "corpus")
TEMPLATES = {
    "none": PLAIN,
    "section": "{section}\n{text}",
    "title": "{title}\n{text}",
    "title and section": "{title}\n{section}\n{text}",
    "section and neighbouring sentences": "{section}\n{before}\n{text}\n{after}",
}


def main(
    corpora: Annotated[list[str], typer.Argument(help="FORMAT:PATH, formats as ingest.format")],
    changed: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE")] = None,
) -> None:
    print(json.dumps({corpus: measure(*corpus.split(":", 1), changed or []) for corpus in corpora}))


def measure(format: str, path: str, changed: list[str]) -> dict:
    settings = load_settings(Path("params.yaml"), [f"ingest.format={format}", f"ingest.path={path}", *changed])
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        run_stage(STAGES["ingest"], settings, workspace)
        passages, questions = (read_table(workspace.path(n), s) for n, s in (("passages", PASSAGES), ("questions", QUESTIONS)))
        encoder = load_encoder(student_folder(settings.models, workspace.model_cache), settings.compute.device)
    test, choosing = choose_questions(questions), choosing_questions(questions)
    asked = pd.concat([test, choosing], ignore_index=True)
    tested = list(test["question_id"])
    evidence = dict(zip(tested, test["evidence"], strict=True))
    vectors = encode(encoder, asked["text"].tolist(), "query")

    def figures(rankings: Rankings) -> dict[str, float]:
        table = retrieval_metrics({key: ids for key, (ids, _) in only(rankings, tested).items()}, evidence, [1])
        found: dict[str, float] = table[["recall@1", "map"]].mean().round(4).to_dict()
        return found

    def by_system(read: pd.DataFrame, of_passages: Vectors, scope: str) -> dict[str, dict[str, float]]:
        ranked = rank(asked, read, vectors, of_passages, scope)
        base = {row.question_id: (row.passage_ids, row.scores) for row in ranked}
        words = rank_bm25(asked, read, scope, None)
        convex, facts = strongest_untrained(base, words, choosing, tested)
        return {"base": figures(base), "bm25": figures(words), "convex_base": figures(convex) | {"weight": facts["weight"]}}

    found: dict[str, Any] = {scope: {} for scope in SCOPES}
    for name, template in TEMPLATES.items():
        read = PassageTemplate(template).applied(passages)
        of_passages = encode(encoder, read["text"].tolist(), "document", name)
        for scope in SCOPES:
            found[scope][name] = by_system(read, of_passages, scope)
    counts = {"questions": len(test), "documents": int(test["doc_id"].nunique()), "passages": len(passages)}
    return counts | found


if __name__ == "__main__":
    typer.run(main)
