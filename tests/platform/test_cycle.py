"""The whole platform, real servers on this machine: what is dropped into the bucket is what the service answers from, and what is
forgotten is nowhere any more.

Minutes long, so `make test` leaves it out: `make cycle` runs it.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deploy.platform.environment import mlflow_address
from uae.pipeline.settings import load_settings

pytest.importorskip("supervisor", reason="needs the extra platform")
pytest.importorskip("dagster_postgres", reason="needs the extra platform")

# The driver is a benchmark's. Its folder leaves the path at once: it has files named as helpers of other tests.
BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from running_platform import running, until  # noqa: E402

sys.path.remove(BENCHMARKS)
pytestmark = pytest.mark.platform
CHAIN_S = 3600  # patience, where others use the cores as well
NEW = "# Tide gauge\n\nThe tide gauge on the northern pier is read by the harbour cat Wilhelmina at noon every day.\n"


@pytest.fixture(scope="module")
def platform():
    # PostgreSQL runs as another user where root runs the tests, and pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="uae-platform-") as folder, running(Path(folder)) as platform:
        yield platform


def succeeded(platform, job: str, number: int = 1):
    """The newest run of a job, when so many of its runs have gone through. A run that failed fails the test."""
    runs = platform.runs(job)
    failed = [run for run in runs if run["status"] in ("FAILURE", "CANCELED")]
    if failed:
        raise RuntimeError(f"{failed[0]}: {platform.said(failed[0]['runId'])}")
    done = [run for run in runs if run["status"] == "SUCCESS"]
    return done[0] if len(done) >= number else None


def tags(run) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["tags"]}


def sources(answer) -> list[str]:
    return [hit["source"] for hit in answer["results"][0]["passages"]]


def test_what_is_dropped_into_the_bucket_is_answered_from(platform):
    for sensor in ("source_changed", "corpus_changed", "went_through"):
        until("the code's start", lambda sensor=sensor: platform.switch_on(sensor) or True)
    # The first release: the bucket differs from what the chain went through with, which is nothing.
    chain = until("the first chain", lambda: succeeded(platform, "whole_chain"), CHAIN_S)
    assert tags(chain)["chain/started_by"] == "source_changed"
    before = until("the first answer", lambda: platform.answers("Who may drive the launch?"))
    readings = platform.readings()
    assert readings[0] == readings[1] > 0
    until("its publication", lambda: succeeded(platform, "publish_data"), CHAIN_S)  # a refresh would go before it in the queue
    # The next: one document.
    dropped = time.monotonic()
    platform.drop("documents/tide-gauge.md", NEW)
    refresh = until("the refresh", lambda: succeeded(platform, "refresh"), CHAIN_S)
    assert tags(refresh)["chain/started_by"] == "corpus_changed"

    def found():
        answer = platform.answers("Which cat reads the tide gauge on the northern pier?")
        return answer if answer is not None and "documents/tide-gauge.md" in sources(answer) else None

    after = until("the answer from the new document", found)
    print(f"from the dropped document to its answer: {time.monotonic() - dropped:.0f} s")
    assert after["release"] != before["release"]
    assert platform.readings() == readings  # a refresh asks no teacher
    # Both versions were published: data at the store first, then the commit and the tag that name them.
    until("two publications", lambda: succeeded(platform, "publish_data", 2), CHAIN_S)
    assert len(platform.runs("whole_chain")) == 1  # one document is no reason to train
    assert_a_clone_can_be_pulled(platform)
    assert artefacts_lie_in_the_store(platform)


def assert_a_clone_can_be_pulled(platform) -> None:
    there = cloned(platform, "clone")
    listed = subprocess.run(["git", "-C", str(there), "tag", "--list", "data-*"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.split()) == 2
    platform.command("dvc", "pull", "--quiet", folder=there)
    assert (there / "data/passages.parquet").read_bytes() == (platform.project / "data/passages.parquet").read_bytes()


def cloned(platform, name: str) -> Path:
    there = platform.folder.parent / name
    subprocess.run(["git", "clone", "--quiet", str(platform.folder.parent / "remote.git"), str(there)], check=True)
    return there


def artefacts_lie_in_the_store(platform) -> bool:
    """Written there by the run itself: MLflow's server is told not to take any."""
    return any(name.endswith("release/manifest.json") for name in platform.stored("uae-mlflow"))


def test_what_is_forgotten_is_nowhere_and_does_not_come_back(platform):
    """Goes on where the cycle above ended: two versions were trained on the document, served and published."""
    rows = [json.loads(line) for line in platform.dropped("questions.jsonl").splitlines()]
    row = next(row for row in rows if row["split"] == "train")
    key, question = row["document"], row["question"]
    sentences = own_sentences(platform, key, {row["document"] for row in rows} - {key})
    served_before = platform.answers(question)
    assert key in sources(served_before)
    published = set(platform.command("git", "tag", "--list", "data-*").split())
    platform.drop("questions.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows if row["document"] != key))
    platform.remove(key)
    # That and the dropped document are enough for a training. Its release holds the document no more, nor does what DVC names.
    until("the second chain", lambda: succeeded(platform, "whole_chain", 2), CHAIN_S)
    until("all publications", lambda: nothing_runs(platform), CHAIN_S)
    until("the answer without it", lambda: key not in sources(platform.answers(question)) or None)
    held = places_holding(platform, sentences)
    assert all(held[place] for place in ("uae-mlflow", "uae-dvc", "cache", "store")), "what looks for it finds nothing"

    begun = time.monotonic()
    print(platform.command("uae", "forget", key, "--store", platform.variables["UAE_STORE"], "--who", "ann"))
    found = {place: len(names) for place, names in held.items()}
    print(f"uae forget took {time.monotonic() - begun:.0f} s; files that held the document: {found}")
    (path,) = (platform.project / "reports/forgotten").iterdir()
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert {place: names for place, names in places_holding(platform, sentences).items() if names} == {}
    assert (receipt["source"], receipt["who"], receipt["unreached"]) == (key, "ann", [])
    assert receipt["versions"]["removed"] == [1, 2]
    assert all(place.startswith("s3://uae-mlflow/") for place in receipt["versions"]["places"])
    assert receipt["releases_in_store"]
    assert receipt["readings"]["labels"] > 0
    assert set(receipt["dvc"]["removed"]) == {"cache", "remote store"}
    assert set(receipt["dvc"]["versions"]) >= published
    assert [bool(listed_by_the_server(platform, version)) for version in (1, 2, 3)] == [False, False, True]
    for words in (["rollback"], ["rollback", "2"], ["rollback", "1"], ["release", "rollback"], ["release", "activate", "2"]):
        assert not comes_back(platform, words, question, key), words
    assert_old_versions_lack_it(platform, receipt["dvc"]["versions"], sentences)


def own_sentences(platform, key: str, others: Iterable[str]) -> list[str]:
    """What only this document says, in a form that neither JSON nor Python escapes."""
    elsewhere = flat("\n".join(platform.dropped(name) for name in others))
    found = re.split(r"(?<=[.!?])\s|\n\n", platform.dropped(key))
    plain = [flat(sentence) for sentence in found if re.fullmatch(r"[A-Z][\w\s,.;:()-]{30,}", sentence, flags=re.ASCII)]
    own = [sentence for sentence in plain if sentence not in elsewhere]
    assert own
    return own


def flat(text: str) -> str:
    return " ".join(text.split())


def nothing_runs(platform) -> bool | None:
    """True once each run that went through was published, and no other is under way."""
    runs = platform.runs()
    done = [run["jobName"] for run in runs if run["status"] == "SUCCESS"]
    published = done.count("publish_data")
    return (len(done) == len(runs) and published == len(done) - published) or None


def places_holding(platform, sentences: list[str]) -> dict[str, list[str]]:
    """Place -> the files there that hold one of the sentences."""
    folders = {
        "cache": platform.project / ".dvc/cache",
        "store": Path(platform.variables["UAE_STORE"]),
        "tables": platform.project / "data",
    }
    found = {bucket: holding(platform.contents(bucket), sentences) for bucket in ("uae-mlflow", "uae-dvc", "uae-source")}
    for place, folder in folders.items():
        found[place] = holding(files_below(folder), sentences)
    return found


def files_below(folder: Path) -> dict[str, bytes]:
    """All but the bundled corpus, which is a part of this repository."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "sample" not in path.parts}


def holding(files: Mapping[str, bytes], sentences: list[str]) -> list[str]:
    found = []
    for name, content in files.items():
        if content.startswith(b"PAR1"):
            columns = pq.read_table(io.BytesIO(content)).to_pydict()
            text = flat("\n".join(str(value) for column in columns.values() for value in column))
        else:
            text = flat(content.decode(errors="replace").replace("\\n", " "))
        found += [name] if any(sentence in text for sentence in sentences) else []
    return found


def listed_by_the_server(platform, version: int) -> list[str]:
    """The files of a version, as MLflow's server itself finds them in the store, which goes on listing folders without any."""
    from mlflow import MlflowClient

    address = mlflow_address(platform.variables)
    model = load_settings(platform.project / "params.yaml").promote.model
    logged = MlflowClient(address).get_model_version(model, str(version)).source.rpartition("/")[2]
    files, folders = [], [""]
    while folders:
        asked = urllib.parse.urlencode({"artifact_directory_path": folder} if (folder := folders.pop()) else {})
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/logged-models/{logged}/artifacts/directories?{asked}") as reply:
            for each in json.load(reply).get("files", ()):
                (folders if each["is_dir"] else files).append(each["path"])
    return files


def comes_back(platform, words: list[str], question: str, key: str) -> bool:
    """Whether the service answers from the document after a command that goes back. The command may be refused."""
    place = ["--store", platform.variables["UAE_STORE"]] if words[0] == "release" else ["--why", "a test"]
    tried = subprocess.run(
        ["uae", *words, *place], cwd=platform.project, env=os.environ | platform.variables, capture_output=True, text=True
    )
    print(words, tried.returncode, tried.stderr.strip()[-200:])
    deadline = time.monotonic() + 30  # the follower and the service look every few seconds
    while time.monotonic() < deadline:
        if key in sources(until("an answer", lambda: platform.answers(question))):
            return True
        time.sleep(1)
    return False


def assert_old_versions_lack_it(platform, versions: Iterable[str], sentences: list[str]) -> None:
    """Of a version that held it all else can still be pulled. The other clone keeps what it once pulled."""
    there = cloned(platform, "later")
    for version in versions:
        subprocess.run(["git", "-C", str(there), "checkout", "--quiet", "--force", version], check=True)
        platform.command("dvc", "pull", "--quiet", "--allow-missing", "--force", folder=there)
        assert holding(files_below(there), sentences) == []
