"""Kill each server of the platform once at each stage of a cycle, and take three away for a while: what is served, what is lost?

    python benchmarks/faults.py [--only "postgres,s3 away@promote"] [--away 60] [--folder DIR]

It starts the platform of ``deploy/platform`` on free ports with tiny models (``running_platform.py``). A cycle is a refresh, the
whole chain and a publication, over a source that got three documents. Each is started as a person does on Dagster's page; no
sensor is on. A fault strikes in the midst of a stage. When the struck server answers again, the next stage is struck, by a fault
that it has not seen. So few cycles hold all pairs of fault and stage. A run that ended is followed by the one that Dagster starts
by itself; where it starts none, by one that is started by hand.

Each strike is a line of ``DIR/faults.jsonl``, and a second run in that folder goes on with what is missing there. The last line
is JSON, by fault: strikes, unanswered requests, seconds until the queue was free, and who finished the work. The readings of the
label store are compared after each job with those before it.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from dagster._grpc.client import DagsterGrpcClient
from running_platform import Platform, Refused, environment, running, until

QUESTION = "Who may drive the launch?"
PATIENCE_S = 1800
_LOOK_S = 0.4
JOBS = {
    "refresh": ["read_source", "refresh_release"],
    "whole_chain": [
        "ingest", "validate", "candidates", "label", "train", "fuse", "index", "evaluate", "promote", "package",
    ],
    "publish_data": ["publish_version"],
}  # fmt: skip
_PROMOTES = {"refresh": "refresh_release", "whole_chain": "promote"}  # job -> the stage that moves the alias
WORKER, BOTH, STEP = "run worker", "code server and run worker", "step"
SERVERS = {"daemon": "daemon", "code server": "code", "postgres": "postgres", "s3": "s3", "mlflow": "mlflow"}  # -> the program
_PORTS = {"code": "PLATFORM_CODE_PORT", "postgres": "PLATFORM_POSTGRES_PORT", "s3": "PLATFORM_S3_PORT"}
_PORTS |= {"mlflow": "PLATFORM_MLFLOW_PORT"}
AWAY = " away"
# The last one is no server: the process of a stage, as where the system kills the largest process for want of memory.
FAULTS = [*SERVERS, WORKER, BOTH, *(f"{name}{AWAY}" for name in ("postgres", "s3", "mlflow")), STEP]
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_HEARTBEATS = ("QUEUED_RUN_COORDINATOR", "MONITORING", "EVENT_LOG_CONSUMER")

Strike = dict[str, Any]
Pair = tuple[str, str]  # fault and stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"faults, with commas between them, or FAULT@STAGE for one stage: {', '.join(FAULTS)}")
    parser.add_argument("--away", type=float, default=60, help="seconds that a server is away, where it is not killed")
    parser.add_argument("--folder", type=Path, help="where to work; kept. Default: a temporary folder")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # the platform ends with it
    wanted = [pair for word in (options.only.split(",") if options.only else FAULTS) for pair in _pairs(word)]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="uae-platform-")))
        folder.mkdir(parents=True, exist_ok=True)
        platform = stack.enter_context(running(folder))
        matrix = Matrix(platform, folder / "faults.jsonl", options.away)
        matrix.fill(wanted)
        print(json.dumps(matrix.summary()))


def _pairs(word: str) -> list[Pair]:
    fault, _, stage = word.partition("@")
    stages = [name for of_job in JOBS.values() for name in of_job]
    if fault not in FAULTS or (stage and stage not in stages):
        raise SystemExit(f"--only {word}: a fault is one of {', '.join(FAULTS)}; a stage one of {', '.join(stages)}")
    return [(fault, name) for name in ([stage] if stage else stages)]


class Matrix:
    """The strikes that were made, and what makes the others."""

    def __init__(self, platform: Platform, record: Path, away_s: float):
        self.platform, self.record, self.away_s = platform, record, away_s
        self.strikes: list[Strike] = []
        if record.exists():
            self.strikes = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
        self._usual = record.with_name("usual.json")
        self.usual_s: dict[str, float] = {}  # stage -> how long it took when nothing was struck

    def fill(self, wanted: list[Pair]) -> None:
        self._first()
        while pending := self._pending(wanted):
            print(f"{len(pending)} strikes to go", file=sys.stderr, flush=True)
            _drop(self.platform, len(self.platform.runs()))
            for job, of_job in JOBS.items():
                if any(stage in of_job for _, stage in pending):
                    self._cycle(job, wanted)

    def summary(self) -> dict[str, Any]:
        """By fault, over all strikes so far."""
        told = {}
        for fault in FAULTS:
            made = [strike for strike in self.strikes if strike["fault"] == fault]
            if not made:
                continue
            told[fault] = {
                "stages": len(made),
                "asked": sum(each["asked"] for each in made),
                "unanswered": sum(each["unanswered"] for each in made),
                "served_another_release": sum(each["served_another"] for each in made),
                "queue_free_s": max(each["queue_free_s"] for each in made),
                "finished_by": dict(Counter(each["finished_by"] for each in made)),
                "finished_s": max(each["finished_s"] for each in made),
                "runs_failed": sum("said" in each for each in made),  # though no process of theirs was killed
                "readings_lost": max(each["readings_lost"] for each in made),
                "readings_twice": max(each["readings_twice"] for each in made),
            }
        return {"faults": told, "readings": len(self.platform.reading_keys())}

    def _first(self) -> None:
        """A cycle without a fault, for there has to be something that is served; it tells how long a stage takes."""
        if self._usual.exists():
            self.usual_s = json.loads(self._usual.read_text(encoding="utf-8"))
            until("the first answer", lambda: self.platform.answers(QUESTION))
            return
        for job in ("whole_chain", "refresh", "publish_data"):
            _drop(self.platform, len(self.platform.runs()))
            run = until("the code's start", partial(self.platform.launch, job))
            status = until(f"the first {job}", partial(_ended, self.platform, run), PATIENCE_S)
            if status != "SUCCESS":
                raise SystemExit(f"the first {job}, without a fault: {self.platform.said(run)}")
            self.usual_s |= {name: told["endTime"] - told["startTime"] for name, told in self.platform.step_times(run).items()}
        until("the first answer", lambda: self.platform.answers(QUESTION))
        self._usual.write_text(json.dumps(self.usual_s), encoding="utf-8")

    def _pending(self, wanted: list[Pair]) -> list[Pair]:
        made = {(each["fault"], each["stage"]) for each in self.strikes}
        return [pair for pair in wanted if pair not in made]

    def _cycle(self, job: str, wanted: list[Pair]) -> None:
        """One run of a job, and those after it until the work is done. Strikes what it can."""
        platform = self.platform
        before = set(platform.reading_keys())
        release = (platform.answers(QUESTION) or {}).get("release")
        first = until(f"the start of {job}", lambda: platform.launch(job))
        by_hand, promoted = 0, False
        new: list[Strike] = []
        while True:
            current = until(f"the state of {job}", lambda: platform.runs(job))[0]
            if current["status"] == "SUCCESS":
                break
            if current["status"] in _ENDED:
                said = until("its words", partial(platform.said, current["runId"]))
                print(f"  {current['runId'][:8]} ended: {said}", file=sys.stderr, flush=True)
                if not self._goes_on(job, current):
                    by_hand += 1
                    until(f"another {job}", lambda: platform.launch(job))
                continue
            stage = _under_way(platform, current["runId"])
            promoted |= stage in (_PROMOTES.get(job), "package")  # from there on another release is what the cycle is for
            made = {(each["fault"], each["stage"]) for each in new}
            fault = next((name for name, at in self._pending(wanted) if at == stage and (name, at) not in made), None)
            if stage is None or fault is None:
                time.sleep(_LOOK_S)
            elif (strike := self._strike(fault, stage, current["runId"], None if promoted else release)) is not None:
                new.append(strike)
        self._judge(new, job, first, by_hand, before)
        if job in _PROMOTES and release is not None:  # the follower has lived through it all, too
            until("the new release", lambda: _other(platform, release), 120)

    def _goes_on(self, job: str, ended: dict[str, Any]) -> bool:
        """Whether Dagster starts another run by itself after one that ended."""
        try:
            until("Dagster's own run", lambda: _follower(self.platform, job, ended["runId"]), 60)
        except TimeoutError:
            return False
        return True

    def _strike(self, fault: str, stage: str, run: str, release: str | None) -> Strike | None:
        """None: the stage had ended before it was struck.

        Args:
            release: the only one that may be served meanwhile; None: another one may follow.
        """
        platform = self.platform
        worker = worker_of(platform, run)
        _to_its_midst(platform, stage, self.usual_s.get(stage, 2.0))
        earlier = _listening(platform, fault)
        with answering(platform) as asked:
            struck, struck_at = time.monotonic(), time.time()
            hurt = damage(platform, fault, worker, self.away_s)
            until(f"{fault} is over", lambda: _over(platform, fault, struck_at, earlier), PATIENCE_S)
            until("the queue is free", lambda: _free(platform, run, worker, hurt), PATIENCE_S)
            free_s = time.monotonic() - struck
        ended = until("the stage's times", lambda: platform.step_times(run))[stage]["endTime"]
        if ended is not None and ended < struck_at:
            print(f"  {stage} had ended before {fault} struck", file=sys.stderr, flush=True)
            return None
        told = {
            "fault": fault,
            "stage": stage,
            "run": run,
            "asked": asked["asked"],
            "unanswered": asked["failed"],
            "slowest_answer_s": round(asked["slowest"], 2),
            "served_another": 0 if release is None else len(asked["releases"] - {release}),
            "queue_free_s": round(free_s - (self.away_s if fault.endswith(AWAY) else 0), 1),
            "struck_at": struck_at,
        }
        print(json.dumps(told), file=sys.stderr, flush=True)
        return told

    def _judge(self, new: list[Strike], job: str, first: str, by_hand: int, before: set[tuple[str, ...]]) -> None:
        """Who finished the work of a job that was struck, and what became of the readings. Writes the strikes down."""
        runs = until(f"the runs of {job}", lambda: self.platform.runs(job))
        of_job = runs[: [each["runId"] for each in runs].index(first) + 1][::-1]
        after = self.platform.reading_keys()
        for strike in new:
            place = [each["runId"] for each in of_job].index(strike["run"])
            ended = of_job[place]["status"]
            later = of_job[place + 1] if place + 1 < len(of_job) else None
            last = [each for each in new if each["run"] == strike["run"]][-1]
            went_on = ended == "SUCCESS" or (strike is not last and _was_killed(last["fault"]))  # to be struck once more
            by = "the same run" if went_on or later is None else _who(later)
            if not went_on and not _was_killed(strike["fault"]):
                strike["said"] = self.platform.said(strike["run"])[:3]
            strike["finished_by"] = by
            strike["finished_s"] = round(of_job[-1]["endTime"] - strike.pop("struck_at"), 1)
            strike["runs"] = [each["status"] for each in of_job]
            strike["by_hand"] = by_hand
            strike["readings_lost"] = len(before - set(after))
            strike["readings_twice"] = len(after) - len(set(after))
            strike["readings_new"] = len(set(after) - before)
            self.strikes.append(strike)
            with open(self.record, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(strike) + "\n")
        said = f"{job} is done: {[each['status'] for each in of_job]}, {by_hand} by hand"
        print(f"{said}, {len(after)} readings, {len(set(after) - before)} new", file=sys.stderr, flush=True)


def damage(platform: Platform, fault: str, worker: int, away_s: float) -> set[int]:
    """Kill what the fault is about. Returns the processes."""
    if fault.endswith(AWAY):
        program = SERVERS[fault.removesuffix(AWAY)]
        platform.supervisor.stopProcess(program)
        time.sleep(away_s)
        platform.supervisor.startProcess(program, False)
        return set()
    if fault == BOTH:  # with all that they have started, as where a container ends
        server = psutil.Process(platform.processes()["code"])
        targets = [server, *server.children(recursive=True), *_family(worker)]
    elif fault == STEP:
        targets = _family(worker)[-1:]  # forked last
    else:  # the one process, as after a crash; what it has started is left to itself
        targets = [psutil.Process(worker if fault == WORKER else platform.processes()[SERVERS[fault]])]
    for process in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return {process.pid for process in targets}


def worker_of(platform: Platform, run: str) -> int:
    """The process of a run, by its own words."""
    said = until("the run's words", lambda: [text for text in platform.messages(run) if "Started process for run" in text])
    (number,) = {int(re.search(r"pid: (\d+)", text)[1]) for text in said}  # type: ignore[index]
    return number


@contextlib.contextmanager
def answering(platform: Platform) -> Iterator[dict[str, Any]]:
    """Ask the service twice a second. What is told: how often, how often in vain, by which releases, the slowest in seconds."""
    told: dict[str, Any] = {"asked": 0, "failed": 0, "releases": set(), "slowest": 0.0}
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.5):
            begun = time.monotonic()
            answer = platform.answers(QUESTION)
            told["asked"] += 1
            told["slowest"] = max(told["slowest"], time.monotonic() - begun)
            if answer is None:
                told["failed"] += 1
            else:
                told["releases"].add(answer["release"])

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield told
    finally:
        ended.set()
        asker.join()


def _drop(platform: Platform, number: int) -> None:
    """Three new documents of words that the corpus has, with questions: so there is something to ask the teachers."""
    drawn = random.Random(number)
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted((platform.project / "data/sample/documents").iterdir()))
    words = sorted(set(re.findall(r"[a-z]{4,}", text)))
    questions = until("the store's answer", partial(platform.dropped, "questions.jsonl"))
    for page in range(3):
        name = f"documents/notice-{number}-{page}.md"
        sentences = [" ".join(drawn.choices(words, k=12)).capitalize() + "." for _ in range(60)]
        until("the store's answer", partial(_done, platform.drop, name, f"# Notice {number}.{page}\n\n{' '.join(sentences)}\n"))
        for place, sentence in enumerate(drawn.sample(sentences, 6)):
            told = sentence.rstrip(".").split()
            asked = f"What follows {' '.join(told[:9])} on page {page} of notice {number}?"
            question = {"id": f"n{number}-{page}-{place}", "document": name, "split": "train", "question": asked}
            questions += json.dumps(question | {"answers": [" ".join(told[9:])], "evidence": [sentence]}) + "\n"
    until("the store's answer", partial(_done, platform.drop, "questions.jsonl", questions))


def _done(action: Callable[..., object], *arguments: object) -> bool:
    action(*arguments)
    return True


def _under_way(platform: Platform, run: str) -> str | None:
    """The stage that a run is in; None while servers are away, too."""
    try:
        return next((name for name, status in platform.steps(run).items() if status == "IN_PROGRESS"), None)
    except (OSError, Refused):
        return None


def _to_its_midst(platform: Platform, stage: str, usual_s: float) -> None:
    """Wait for a third of what the stage takes; where pairs are asked, for the first that are stored."""
    if stage != "label":
        time.sleep(min(usual_s / 3, 5))
        return
    folder = platform.project / "data/labels"
    known, deadline = set(folder.glob("[!.]*.parquet")), time.monotonic() + usual_s
    while not set(folder.glob("[!.]*.parquet")) - known and time.monotonic() < deadline:
        time.sleep(0.02)


def _over(platform: Platform, fault: str, struck_at: float, earlier: set[int]) -> bool | None:
    """Whether all servers that the fault is about answer again; not those that listened before, which a kill may have left."""
    now = _listening(platform, fault)
    if now & earlier or (earlier and not now):
        return None
    try:
        return all(_ANSWERS[program](platform, struck_at) for program in _programs(fault)) or None
    except Exception:  # each client has errors of its own for a server that is away
        return None


def _listening(platform: Platform, fault: str) -> set[int]:
    """The processes that listen at the ports of the servers that a fault is about."""
    ports = {int(platform.variables[_PORTS[program]]) for program in _programs(fault) if program in _PORTS}
    return {each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port in ports}


def _programs(fault: str) -> list[str]:
    name = fault.removesuffix(AWAY)
    return ["code"] if name == BOTH else [SERVERS[name]] if name in SERVERS else []


def _daemon_answers(platform: Platform, struck_at: float) -> bool:
    beats = platform.heartbeats()
    return all(beats.get(part, 0) > struck_at for part in _HEARTBEATS)


def _code_answers(platform: Platform, struck_at: float) -> bool:
    return bool(DagsterGrpcClient(host="127.0.0.1", port=int(platform.variables["PLATFORM_CODE_PORT"])).ping("x"))


def _postgres_answers(platform: Platform, struck_at: float) -> bool:
    return bool(platform.runs())


def _store_answers(platform: Platform, struck_at: float) -> bool:
    return bool(platform.stored("uae-source"))


def _mlflow_answers(platform: Platform, struck_at: float) -> bool:
    with environment(platform.variables):
        import mlflow

        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        return bool(mlflow.MlflowClient(f"http://127.0.0.1:{platform.variables['PLATFORM_MLFLOW_PORT']}").search_experiments())


_ANSWERS: dict[str, Callable[[Platform, float], bool]] = {
    "daemon": _daemon_answers,
    "code": _code_answers,
    "postgres": _postgres_answers,
    "s3": _store_answers,
    "mlflow": _mlflow_answers,
}


def _free(platform: Platform, run: str, worker: int, hurt: set[int]) -> bool | None:
    """When the run has ended, or goes on in a live process."""
    status = _status(platform, run)
    return True if status in _ENDED or (status == "STARTED" and worker not in hurt and _lives(worker)) else None


def _status(platform: Platform, run: str) -> str:
    (found,) = [each["status"] for each in platform.runs() if each["runId"] == run]
    return str(found)


def _ended(platform: Platform, run: str) -> str | None:
    status = _status(platform, run)
    return status if status in _ENDED else None


def _follower(platform: Platform, job: str, run: str) -> str | None:
    """The run that Dagster starts by itself after this one; None while it is not there."""
    return next((each["runId"] for each in platform.runs(job) if _tag(each, "dagster/parent_run_id") == run), None)


def _who(run: dict[str, Any]) -> str:
    return "a run that Dagster started" if _tag(run, "dagster/parent_run_id") else "a run started by hand"


def _tag(run: dict[str, Any], name: str) -> str | None:
    return next((each["value"] for each in run["tags"] if each["key"] == name), None)


def _was_killed(fault: str) -> bool:
    return fault in (WORKER, BOTH)


def _other(platform: Platform, release: str) -> str | None:
    now = (platform.answers(QUESTION) or {}).get("release")
    return now if now not in (None, release) else None


def _lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(number: int) -> list[psutil.Process]:
    """A process and what it has started, the youngest last."""
    try:
        parent = psutil.Process(number)
        return [parent, *sorted(parent.children(recursive=True), key=lambda process: process.create_time())]
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
