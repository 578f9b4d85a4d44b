"""The service under load: against a plain one, against LLM re-ranking, and while releases are swapped.

The release is the bundled corpus under the untrained student and BM25: training changes weights, not speed. It is served by
`bentoml serve`; the plain service (benchmarks/plain_service.py) has the same encoder and passages. Both are up all the time and
are asked the same questions in turns, by a load generator that is a process of its own on the same machine. Prints one JSON line
last; `p99_ratio` is ours by the plain one's, `swap.p99_ratio` is during by before.

python benchmarks/serving.py
python benchmarks/serving.py --part systems --run runs/mine     each system of a run's release, with BM25 and a second stage
python benchmarks/serving.py --set ingest.max_documents=8 --seconds 2 --repeats 1 --swaps 2 --timed 1     a small run
"""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from load import percentile
from servers import ask, free_port, retriever, rss_mb, running
from serving_systems import by_system

from uae.evaluation.cost import reranking, time_queries, vector_search
from uae.evaluation.rerank import rerank_by_query_likelihood
from uae.evaluation.testset import choose_questions
from uae.io.files import sha256_bytes, write_json
from uae.io.models import fingerprint
from uae.io.tables import PASSAGES, QUESTIONS, read_table, write_table
from uae.pipeline.chain import STAGES, run_stage
from uae.pipeline.settings import Settings, dump_settings, load_settings
from uae.pipeline.stages.evaluate import EvaluateParameters, llm_terms
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.release.build import IndexRecipe, build_release
from uae.release.manifest import read_manifest
from uae.release.open import Release
from uae.release.store import ReleaseStore
from uae.text.passage_template import PassageTemplate

HERE = Path(__file__).resolve().parent
OURS, PLAIN = "uae", "plain"
PARTS, OF_A_RUN = ("compare", "rerank", "swap"), "systems"
K = 5  # passages an answer
FUSION = {"form": "scores", "weight": 0.3, "chosen": None}  # of BM25: every weight above 0 takes the same time


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_release(folder: Path, settings: Settings, student: Path | None, prefix: str) -> Workspace:
    """A release of the bundled corpus; ``prefix`` is put before each passage's id, so that two releases share none."""
    workspace = Workspace(folder, Path("models"))
    if workspace.path("release").exists():
        return workspace
    say(f"building release {folder.name}")
    run_stage(STAGES["ingest"], settings, workspace)
    passages, questions = read_table(workspace.path("passages"), PASSAGES), read_table(workspace.path("questions"), QUESTIONS)
    passages["passage_id"] = prefix + passages["passage_id"]
    questions["evidence"] = [[prefix + passage for passage in each] for each in questions["evidence"]]
    write_table(workspace.path("passages"), PASSAGES, passages)
    write_table(workspace.path("questions"), QUESTIONS, questions)
    shutil.copytree(
        student or student_folder(settings.models, workspace.model_cache),
        workspace.path("student"),
        dirs_exist_ok=True,
    )
    # Not the stage index: that wants what training leaves beside a student.
    write_json(workspace.path("fusion"), FUSION | {"student": fingerprint(workspace.path("student"))})
    build_release(
        documents_path=workspace.path("documents"), passages_path=workspace.path("passages"),
        questions_path=workspace.path("questions"), encoder_path=workspace.path("student"),
        base_path=student_folder(settings.models, workspace.model_cache) if settings.index.base else None,
        release_path=workspace.path("release"), recipe=IndexRecipe(**settings.index.model_dump(exclude={"base"})),
        scope=settings.scope, passage_words=settings.ingest.passage_words, device=settings.compute.device,
        read_as=PassageTemplate(settings.passages.template), fusion_path=workspace.path("fusion"),
    )  # fmt: skip
    return workspace


class Bench:
    def __init__(self, scratch: Path, workspaces: list[Workspace], questions: pd.DataFrame):
        self.scratch, self.workspaces, self.questions = scratch, workspaces, questions
        self.store = ReleaseStore(scratch / "store")
        self.releases = [self.store.install(each.path("release"), None) for each in workspaces]
        self.store.activate(self.releases[0])
        self.bodies = scratch / "bodies.json"
        self.bodies.write_text(json.dumps([json.dumps({"query": text, "k": K}) for text in questions["text"]]))
        self.owners = scratch / "owners.json"
        ids = [read_table(each.path("passages"), PASSAGES)["passage_id"].tolist() for each in workspaces]
        self.owners.write_text(json.dumps(dict(zip(self.releases, ids, strict=True))))
        self.paths = {OURS: "/v1/search", PLAIN: "/search"}

    @contextlib.contextmanager
    def ours(self) -> Iterator[int]:
        with retriever(self.scratch, {"UAE_STORE": str(self.store.folder)}) as (port, self.server):
            yield port

    @contextlib.contextmanager
    def plain(self) -> Iterator[int]:
        port, workspace = free_port(), self.workspaces[0]
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "plain_service:app", "--host", "127.0.0.1"]
        environment = {
            "ENCODER": str(workspace.path("student")),
            "PASSAGES": str(workspace.path("passages")),
            "HF_HUB_OFFLINE": "1",
        }
        command += ["--port", str(port), "--log-level", "warning"]
        with running(command, lambda: ask(port, "GET", "/docs")[0] == 200, environment, self.scratch / "plain.log"):
            yield port

    def load(self, port: int, path: str, clients: int, seconds: float, *more: str) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "load.py"), str(port), path, str(self.bodies)]
        command += ["--clients", str(clients), "--seconds", str(seconds), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def measured(self, *arguments) -> dict:
        process = self.load(*arguments)
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit("the load generator failed")
        return json.loads(out.splitlines()[-1])


def compare(bench: Bench, ports: dict[str, int], clients: list[int], seconds: float, repeats: int) -> dict:
    """Medians over the repeats, by number of clients. The services take turns, each time in another order."""
    runs: dict[tuple[str, int], list[dict]] = {}
    for name, port in ports.items():  # not counted: first calls compile, allocate and fill caches
        bench.measured(port, bench.paths[name], max(clients), min(seconds, 3.0))
    for number in clients:
        for turn in range(repeats):
            names = [OURS, PLAIN] if turn % 2 == 0 else [PLAIN, OURS]
            for name in names:
                found = bench.measured(ports[name], bench.paths[name], number, seconds)
                runs.setdefault((name, number), []).append(found)
                times = f"p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms"
                say(f"  {name}, {number} clients: {found['per_s']:.1f}/s, {times}")
    medians = {
        figure: {name: {n: statistics.median(run[figure] for run in runs[name, n]) for n in clients} for name in ports}
        for figure in ("per_s", "p50_ms", "p99_ms")
    }

    def ratio(figure: str) -> dict[int, float]:
        return {n: round(medians[figure][OURS][n] / medians[figure][PLAIN][n], 3) for n in clients}

    return {
        "throughput_ratio": ratio("per_s"),
        "p99_ratio": ratio("p99_ms"),
        **{
            figure: {name: {n: round(value, 2) for n, value in values.items()} for name, values in by_name.items()}
            for figure, by_name in medians.items()
        },
        "failed": {name: sum(run["failed"] for n in clients for run in runs[name, n]) for name in ports},
        "generator_cpu": {n: round(max(run["generator_cpu"] for run in runs[OURS, n]), 3) for n in clients},
    }


def against_reranking(bench: Bench, port: int, settings: Settings, timed: int, one_client_ms: float | None) -> dict:
    """Time per query, one at a time: over HTTP, by the opened release, and by an LLM that reads the first 20 passages.

    ``rerank_ratio`` divides by the median of one client over HTTP, which ``compare`` found in the same run. There the service
    answers one query after another, as the LLM here re-ranks. ``rerank_ratio_after_the_llm`` divides by queries asked between
    two of the LLM's.
    """
    workspace = bench.workspaces[0]
    passages = read_table(workspace.path("passages"), PASSAGES)
    questions = bench.questions.head(timed)
    release = Release(workspace.path("release"), "cpu")
    try:
        found = release.search(questions["text"].tolist(), 20)
        ranked = {
            question_id: ([hit.passage_id for hit in hits], [hit.score for hit in hits])
            for question_id, hits in zip(questions["question_id"], found, strict=True)
        }
        judging = llm_terms(EvaluateParameters.of(settings), workspace)
        rerank = partial(
            rerank_by_query_likelihood,
            questions=questions,
            passages=passages,
            teacher=judging.open_reranker(),
            template=judging.query_template,
            top=20,
        )
        texts = dict(zip(questions["question_id"], questions["text"], strict=True))

        def over_http(question_id: str) -> dict:
            # Each query has a connection of its own: the service closes idle ones while the LLM runs. The LLM also takes the
            # CPU's caches from it.
            status, body = ask(port, "POST", bench.paths[OURS], json.dumps({"query": texts[question_id], "k": K}))
            if status != 200:
                raise SystemExit(f"{status}: {body[:300]!r}")
            return json.loads(body)

        systems = {
            "http": over_http,
            "search": vector_search(release, questions, "corpus", K),
            "rerank": reranking(rerank, ranked),
        }
        cost = time_queries(systems, sorted(ranked))
    finally:
        release.close()
    times = {name: each["ms_per_query"] for name, each in cost.items()}
    return {
        "rerank_ratio": round(times["rerank"] / (one_client_ms or times["http"]), 1),
        "rerank_ratio_after_the_llm": round(times["rerank"] / times["http"], 1),
        "rerank_ratio_without_http": round(times["rerank"] / times["search"], 1),
        "ms_per_query": {name: round(value, 3) for name, value in times.items()},
        "rerank_queries": len(ranked),
    }


def swapped(bench: Bench, port: int, swaps: int, window: float) -> dict:
    """Releases activated to and fro by the real command while 8 clients run.

    Before: the ``window`` seconds that end where a command starts. During: from active.json's change, on which the service loads,
    until a second after it answers from the new release and has closed the old one, and ``window`` seconds at least. What the
    command itself takes before that (it opens the release to check it) is another process, and told apart: checking.
    """
    timeline = bench.scratch / "timeline.json"
    more = ("--owners", str(bench.owners), "--timeline", str(timeline))
    load = bench.load(port, bench.paths[OURS], 8, 24 * 3600.0, *more)
    moments = []
    try:
        time.sleep(window)  # connections, caches
        rss = [round(rss_mb(bench.server))]
        for turn in range(swaps):
            time.sleep(window)
            started = time.monotonic()
            fingerprint = bench.releases[(turn + 1) % 2]
            command = [
                sys.executable,
                "-m",
                "uae.cli.main",
                "release",
                "activate",
                fingerprint,
                "--store",
                str(bench.store.folder),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            # Wall-clock time of the file, on the clock that the load generator has.
            written = (bench.store.folder / "active.json").stat().st_mtime - time.time() + time.monotonic()
            switched = wait_for(bench, port, fingerprint)
            ended = max(written + window, switched + 1.0)
            moments.append((started, written, switched, ended))
            time.sleep(max(0.0, ended - time.monotonic()))
            rss.append(round(rss_mb(bench.server)))
    finally:
        load.send_signal(signal.SIGTERM)
        out, _ = load.communicate()
    totals, answered = json.loads(out.splitlines()[-1]), json.loads(timeline.read_text())["answered"]

    def p99(*spans: tuple[float, float]) -> float:
        """Over all requests that were sent in one of the spans."""
        taken = [taken for sent, taken, _ in answered if any(begin <= sent < end for begin, end in spans)]
        return 1000 * percentile(taken or [float("inf")], 0.99)

    spans = [
        {"before": (started - window, started), "checking": (started, written), "during": (written, ended)}
        for started, written, _, ended in moments
    ]
    each = [{name: p99(span) for name, span in row.items()} for row in spans]
    for row in each:
        say(f"  p99 of a swap in ms: {', '.join(f'{name} {value:.1f}' for name, value in row.items())}")
    ratios = [row["during"] / row["before"] for row in each]
    together = {name: p99(*(row[name] for row in spans)) for name in spans[0]}
    return {
        "swaps": len(each),
        "requests": totals["requests"],
        "failed": totals["failed"],
        "mixed": totals["mixed"],
        "p99_ratio": round(statistics.median(ratios), 3),
        "p99_ratio_worst": round(max(ratios), 3),
        "p99_ratio_together": round(together["during"] / together["before"], 3),
        "p99_ratio_checking": round(statistics.median(row["checking"] / row["before"] for row in each), 3),
        "p99_ms": {name: round(statistics.median(row[name] for row in each), 2) for name in ("before", "checking", "during")},
        "seconds_to_switch": round(statistics.median(switched - written for _, written, switched, _ in moments), 2),
        "rss_mb": {"before": rss[0], "after_each": rss[1:]},
        "first_failure": totals["first_failure"],
    }


def wait_for(bench: Bench, port: int, fingerprint: str) -> float:
    """When the service said first that it serves this release and drains no other."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        served = json.loads(ask(port, "GET", "/v1/release")[1])["fingerprint"] == fingerprint
        if served and b"uae_releases_draining 0.0" in ask(port, "GET", "/metrics")[1]:
            return time.monotonic()
        time.sleep(0.1)
    raise SystemExit(f"release {fingerprint[:12]} was activated and is not served: see {bench.scratch / 'retriever.log'}")


def main(
    clients: Annotated[list[int], typer.Option(help="Numbers of concurrent clients.")] = (1, 8, 64),
    seconds: Annotated[float, typer.Option(help="Of one measurement.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each service, by number of clients.")] = 5,
    timed: Annotated[int, typer.Option(min=1, help="Queries timed against LLM re-ranking.")] = 5,
    swaps: Annotated[int, typer.Option(min=1, help="Activations under load.")] = 10,
    window: Annotated[float, typer.Option(help="Seconds before and after an activation whose p99 are compared.")] = 5.0,
    parts: Annotated[list[str], typer.Option("--part", help="compare, rerank, swap, systems; may be repeated.")] = PARTS,
    run: Annotated[Path | None, typer.Option(help="A folder of uae run, whose release the part systems asks.")] = None,
    asked: Annotated[int, typer.Option(min=1, help="Queries of the part systems.")] = 50,
    student: Annotated[Path | None, typer.Option(help="An encoder; default: the untrained student of params.yaml.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Where built releases are kept for another run.")] = None,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    if unknown := set(parts) - {*PARTS, OF_A_RUN}:
        raise typer.BadParameter(f"--part {unknown.pop()}: the parts are {', '.join((*PARTS, OF_A_RUN))}")
    if (OF_A_RUN in parts) != (run is not None):
        raise typer.BadParameter("--part systems and --run go together: the release of that run is asked")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings = load_settings(Path("params.yaml"), ["ingest.path=data/sample", "ingest.format=folder", *overrides])
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        scratch = Path(folder)
        of_a_run = by_system(scratch, run, asked, timed, K) if run is not None else {}
        if set(parts) == {OF_A_RUN}:
            print(json.dumps({OF_A_RUN: of_a_run}))
            return
        made_of = sha256_bytes(json.dumps(dump_settings(settings)), fingerprint(student) if student else "")[:12]
        built = keep / made_of if keep else scratch
        workspaces = [make_release(built / name, settings, student, f"{name}-") for name in ("first", "second")]
        questions = choose_questions(read_table(workspaces[0].path("questions"), QUESTIONS))
        bench = Bench(scratch, workspaces, questions)
        result = {
            **({OF_A_RUN: of_a_run} if of_a_run else {}),
            "passages": len(read_table(workspaces[0].path("passages"), PASSAGES)),
            "questions": len(questions),
            "cores": len(os.sched_getaffinity(0)),
            "backend": read_manifest(workspaces[0].path("release")).dense().serving.backend,
        }
        with bench.ours() as port:
            if "compare" in parts:
                say("against a plain service")
                with bench.plain() as other:
                    result |= compare(bench, {OURS: port, PLAIN: other}, list(clients), seconds, repeats)
            if "rerank" in parts:
                say("against LLM re-ranking")
                alone = result.get("p50_ms", {}).get(OURS, {}).get(1)
                result |= against_reranking(bench, port, settings, timed, alone)
            if "swap" in parts:
                say("swapping under load")
                result["swap"] = swapped(bench, port, swaps, window)
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
