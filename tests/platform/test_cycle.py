"""The whole platform, real servers on this machine: what is dropped into the bucket is what the service answers from.

Minutes long, so `make test` leaves it out: `make cycle` runs it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

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
    there = platform.folder.parent / "clone"
    remote = platform.folder.parent / "remote.git"
    subprocess.run(["git", "clone", "--quiet", str(remote), str(there)], check=True)
    listed = subprocess.run(["git", "-C", str(there), "tag", "--list", "data-*"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.split()) == 2
    platform.command("dvc", "pull", "--quiet", folder=there)
    assert (there / "data/passages.parquet").read_bytes() == (platform.project / "data/passages.parquet").read_bytes()


def artefacts_lie_in_the_store(platform) -> bool:
    """Written there by the run itself: MLflow's server is told not to take any."""
    return any(name.endswith("release/manifest.json") for name in platform.stored("uae-mlflow"))
