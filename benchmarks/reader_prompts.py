"""What the reader's worked examples are worth: token F1 on gold passages of the sample, with, without them, and in a chat.

Prints one JSON line last.

python benchmarks/reader_prompts.py
"""

import json
import tempfile
from pathlib import Path

from uae.evaluation.answers import Reader
from uae.io.models import resolve
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.measures.answers import answer_metrics
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import load_settings
from uae.pipeline.workspace import Workspace
from uae.text.passage_template import PassageTemplate

VARIANTS = {
    "question alone": lambda question, passage: f"{passage}\n\nQuestion: {question}\nAnswer:",
    "an instruction": lambda question, passage: (
        f"{passage}\n\nAnswer the question with a short phrase from the text.\nQuestion: {question}\nAnswer:"
    ),
}


def main(asked: int = 40) -> None:
    settings = load_settings(Path("params.yaml"), ["ingest.path=data/sample", "ingest.format=folder"])
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(Path(scratch))
        run_stage(STAGES["ingest"], settings, workspace)
        texts = PassageTemplate(settings.passages.template).by_id(read_table(workspace.path("passages"), PASSAGES))
        questions = read_table(workspace.path("questions"), QUESTIONS)
    questions = questions[questions["split"] == "test"][:asked]
    requests = [(q.text, [texts[q.evidence[0]]]) for q in questions.itertuples()]
    result = {"questions": len(questions), "token_f1": {}}
    for name, prompt in {"two examples": None, "two examples in the chat template": None, **VARIANTS}.items():
        reader = Reader(
            resolve(settings.models.reader, workspace.model_cache), settings.compute.device, settings.compute.dtype, 20, 16,
            chat=name.endswith("chat template"),
        )  # fmt: skip
        if prompt is not None:
            reader.prompt = lambda question, passages, p=prompt: p(question, passages[0])
        replies = reader.answer(requests)
        scores = [
            answer_metrics(reply, gold, read)["token_f1"]
            for reply, gold, (_, read) in zip(replies, questions["answers"], requests, strict=True)
        ]
        result["token_f1"][name] = round(sum(scores) / len(scores), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
