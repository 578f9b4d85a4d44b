"""Time per query of each system that a run's release serves: a part of ``benchmarks/serving.py``.

The release of a run has what the run's parameters gave it: BM25 beside the encoder, a second stage, another encoder. Every system
of ``GET /v1/models`` is asked over HTTP, one query at a time, in turns. An LLM that reads the first 20 passages is asked in the
same run.
"""

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from servers import ask, retriever

from uae.evaluation.cost import reranking, time_queries
from uae.evaluation.rerank import rerank_by_query_likelihood
from uae.evaluation.testset import UAE, choose_questions
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.evaluate import EvaluateParameters, llm_terms
from uae.pipeline.workspace import Workspace
from uae.release.manifest import read_manifest
from uae.release.store import ReleaseStore

RERANKED = 20
HTTP = "/v1/search"


def by_system(scratch: Path, run: Path, asked: int, reranked: int, k: int) -> dict[str, Any]:
    """``by_name``: system -> ``ms_per_query``, ``score_is`` and ``rerank_ratio``, the LLM's time over its own.

    Args:
        run: a folder of ``uae run``, with a release.
        asked: test questions that every system is asked.
        reranked: of these, how many the LLM is asked: it takes seconds for each.
        k: passages an answer.
    """
    settings = load_settings(run / "params.yaml", [])
    workspace = Workspace(run, Path("models"), flat_reports=True)
    passages = read_table(workspace.path("passages"), PASSAGES)
    questions = choose_questions(read_table(workspace.path("questions"), QUESTIONS)).head(asked)
    manifest = read_manifest(workspace.path("release"))
    store = ReleaseStore(scratch / "systems")
    store.activate(store.install(workspace.path("release"), None))
    llm = llm_terms(EvaluateParameters.of(settings), workspace)
    rerank = partial(
        rerank_by_query_likelihood, questions=questions, passages=passages, teacher=llm.open_reranker(),
        template=llm.query_template, top=RERANKED,
    )  # fmt: skip
    texts = dict(zip(questions["question_id"], questions["text"], strict=True))
    with retriever(scratch, {"UAE_STORE": str(store.folder)}) as (port, _):
        served = json.loads(ask(port, "GET", "/v1/models")[1])["data"]
        names = {each["id"]: each.get("score_is") for each in served if each["id"] != manifest.fingerprint}
        known = {name: score_is for name, score_is in names.items() if score_is}
        over_http = {name: partial(_search, port, name, texts, k) for name in known}
        found = {key: _search(port, UAE, texts, RERANKED, key)["results"][0]["passages"] for key in list(texts)[:reranked]}
        ranked = {key: ([hit["passage_id"] for hit in hits], [hit["score"] for hit in hits]) for key, hits in found.items()}
        times = time_queries(over_http, list(texts))
        slow = time_queries({"rerank": reranking(rerank, ranked)}, list(ranked))["rerank"]["ms_per_query"]
        again = time_queries(over_http, list(texts))  # before and after the LLM: a machine that slowed down shows
    ms = {name: statistics.median([times[name]["ms_per_query"], again[name]["ms_per_query"]]) for name in known}
    return {
        "by_name": {
            name: {"ms_per_query": round(value, 2), "score_is": known[name], "rerank_ratio": round(slow / value, 1)}
            for name, value in ms.items()
        },
        "rerank_ms": round(slow, 1),
        "asked": len(texts),
        "reranked": len(ranked),
        "passages": len(passages),
        "serving": manifest.dense().serving.backend,
        "second_stage": manifest.second_stage and manifest.second_stage.serving.backend,
    }


def _search(port: int, system: str, texts: dict[str, str], k: int, question_id: str) -> dict[str, Any]:
    status, body = ask(port, "POST", HTTP, json.dumps({"query": texts[question_id], "k": k, "system": system}))
    if status != 200:
        raise SystemExit(f"{system}: {status}: {body[:300]!r}")
    found: dict[str, Any] = json.loads(body)
    return found
