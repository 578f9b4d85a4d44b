"""How hard the bundled corpus is for the untrained demo encoder, within documents. Prints one JSON line last.

python benchmarks/sample.py [KEY=VALUE ...]    for example ingest.passage_words=110
"""

import json
import sys
import tempfile
from pathlib import Path

from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.metrics import retrieval_metrics
from uae.measures.ranking import rank
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.retrievers.dense import encode, load_encoder
from uae.text.passage_template import PassageTemplate


def main() -> None:
    settings = load_settings(Path("params.yaml"), ["ingest.path=data/sample", "ingest.format=folder", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        run_stage(STAGES["ingest"], settings, workspace)
        passages, questions = (read_table(workspace.path(n), s) for n, s in (("passages", PASSAGES), ("questions", QUESTIONS)))
        encoder = load_encoder(student_folder(settings.models, workspace.model_cache), settings.compute.device)
    vectors = (
        encode(encoder, questions["text"].tolist(), "query"),
        encode(encoder, PassageTemplate(settings.passages.template).texts(passages), "document"),
    )
    rankings = {r.question_id: r.passage_ids for r in rank(questions, passages, *vectors, "document")}
    evidence = dict(zip(questions["question_id"], questions["evidence"], strict=True))
    table = retrieval_metrics(rankings, evidence, [1, 5]).join(questions.set_index("question_id")["split"])
    result = {
        "passages": len(passages),
        "questions": len(questions),
        "all": table.drop(columns="split").mean().round(4).to_dict(),
    }
    result |= {split: rows.drop(columns="split").mean().round(4).to_dict() for split, rows in table.groupby("split")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
