"""Labelling and embedding on a local Ray cluster of three nodes: the same values and parts, whoever is killed meanwhile.

One cluster serves the file: its head and another node, with one CPU each. So two workers are on two nodes.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import uae
from uae.execution.ray import RayPool
from uae.io.errors import ExecutionError, ModelError
from uae.io.models import fingerprint
from uae.retrievers.dense import load_encoder
from uae.retrievers.passage_vectors import PassageVectors
from uae.teacher.engines.local import load_teacher
from uae.teacher.engines.spread import TeacherPool
from uae.vectors.store import VectorStore

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "teacher"))

from labelling import CountingTeacher, asking, contents, readings, run, write_corpus  # noqa: E402  (of another folder of tests)
from on_ray import COUNTED, SIZES, asked, counting, options  # noqa: E402  (which needs the same)

ray = pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
from ray.cluster_utils import Cluster  # noqa: E402

_MEMORY = 80 * 2**20  # of each node's object store


@pytest.fixture(scope="module")
def cluster():
    path = os.pathsep.join([str(ROOT), str(HERE), str(HERE.parent / "teacher")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)  # of the nodes' workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        # What else the machine does must neither kill workers nor, as Ray starts them at niceness 15, starve them.
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.setenv("RAY_worker_niceness", "0")
        with socket.create_server(("127.0.0.1", 0)) as free:
            clients = free.getsockname()[1]
        patch.setenv("CLIENT_ADDRESS", f"ray://127.0.0.1:{clients}")
        head = {
            "num_cpus": 1, "object_store_memory": _MEMORY, "include_dashboard": False, "ray_client_server_port": clients,
        }  # fmt: skip
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            made.add_node(num_cpus=1, object_store_memory=_MEMORY)
            patch.setenv("RAY_ADDRESS", made.address)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The store that one process makes of ``corpus`` with the teacher that counts."""
    folder = tmp_path_factory.mktemp("alone")
    write_corpus(folder)
    run(folder, asking(CountingTeacher(COUNTED)), readings_per_part=30)
    return folder / "labels"


def pool(make: str, **changes) -> RayPool:
    return RayPool(options(**changes), f"toy_workers:{make}", {}, "squaring")


# Labels


def test_labels_of_a_model_are_those_of_one_process_to_the_byte(cluster, corpus, tiny_lm):
    run(corpus, asked(tiny_lm, options()), store="there", readings_per_part=30)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(corpus, asking(load_teacher(tiny_lm, fingerprint(tiny_lm), **SIZES)), store="here", readings_per_part=30)
    finally:
        torch.set_num_threads(threads)
    here, there = readings(corpus / "here"), readings(corpus / "there")
    assert len(here) == len(there) == 84
    assert (here["nll_sum"] - there["nll_sum"]).abs().max() <= 1e-5
    assert contents(corpus / "here") == contents(corpus / "there")  # the same provenance, so the same parts


@pytest.mark.parametrize("workers", [1, 2])
def test_the_store_does_not_depend_on_the_number_of_workers(cluster, corpus, alone, workers):
    assert run(corpus, counting(options(workers=workers)), readings_per_part=30)["readings_asked_now"] == 84
    assert contents(corpus / "labels") == contents(alone)


def killing(kill):
    """A pool of teachers that calls ``kill`` with the workers while they read, at the fourth batch."""

    class Killed(TeacherPool):
        def read_all(self, batches):
            for number, read in enumerate(super().read_all(batches)):
                if number == 3:
                    kill(self._pool)
                yield read

    return Killed


def test_a_killed_worker_costs_its_batch_and_the_store_is_the_same(cluster, corpus, alone, caplog):
    killed = killing(lambda pool: os.kill(pool.pids[0], signal.SIGKILL))
    run(corpus, counting(options(), killed), readings_per_part=30)
    assert 1 <= caplog.text.count("was lost") <= 2
    assert contents(corpus / "labels") == contents(alone)


def test_a_killed_node_with_all_that_it_runs_leaves_the_same_store(cluster, corpus, alone, caplog):
    """There is no room for its worker elsewhere: the two others do the work."""
    node = cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
    raylet = node.all_processes["raylet"][0].process.pid

    def kill(pool):
        of_node = [worker for worker in map(psutil.Process, pool.pids) if worker.ppid() == raylet]
        assert len(of_node) == 1
        cluster.remove_node(node, allow_graceful=False)
        psutil.wait_procs(of_node, timeout=60)  # it ends itself when its raylet is gone

    killed = killing(kill)
    run(corpus, counting(options(workers=3), killed), readings_per_part=30)
    assert 1 <= caplog.text.count("was lost") <= 2
    assert contents(corpus / "labels") == contents(alone)


def test_a_killed_driver_leaves_what_was_finished_and_the_next_one_goes_on(cluster, corpus, alone):
    command = [sys.executable, str(HERE / "spread_labelling.py"), str(corpus), cluster.address]
    with subprocess.Popen(command) as driver:
        while not (corpus / "begun").exists():
            assert driver.poll() is None, "it ended before it was killed"
            with pytest.raises(subprocess.TimeoutExpired):
                driver.wait(0.02)
        driver.kill()
    left = len(readings(corpus / "labels"))
    assert 0 < left < 84
    counts = run(corpus, counting(options()), readings_per_part=30)
    assert counts["readings_stored_before"] == left
    assert contents(corpus / "labels") == contents(alone)


def test_a_driver_that_is_no_node_of_the_cluster_comes_in_as_a_client(cluster, corpus, alone):
    """A process of its own, because one is either a client of Ray or a driver."""
    program = (
        "import os, sys, pathlib; from labelling import run; from on_ray import counting, options; "
        "execution = options(address=os.environ['CLIENT_ADDRESS']); "
        "run(pathlib.Path(sys.argv[1]), counting(execution), readings_per_part=30)"
    )
    subprocess.run([sys.executable, "-c", program, str(corpus)], check=True)
    assert contents(corpus / "labels") == contents(alone)


# Vectors


def test_vectors_are_those_of_one_process_to_the_byte(cluster, tmp_path, tiny_encoder):
    texts = [f"Shelf {n} holds {n * 7} boxes. " * (1 + n % 5) for n in range(300)]
    encoder = load_encoder(tiny_encoder, "cpu")
    ours = PassageVectors(encoder, tiny_encoder, VectorStore(tmp_path / "here"))(texts)
    store = VectorStore(tmp_path / "there", execution=options())
    theirs = PassageVectors(encoder, tiny_encoder, store)(texts)
    assert np.abs(ours - theirs).max() <= 1e-5
    (here,), (there,) = ((tmp_path / name).glob("*/*.parquet") for name in ("here", "there"))
    assert here.name == there.name  # of its content's hash
    assert store.counts()["vectors_embedded"] == 300


def test_another_encoder_in_the_worker_s_folder_is_refused(cluster, tmp_path, tiny_encoder):
    """Its vectors would be kept under the fingerprint of the encoder that the driver has loaded."""
    encoder = load_encoder(tiny_encoder, "cpu")
    folder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    weights = next(folder.rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ExecutionError) as caught:
        PassageVectors(encoder, folder, VectorStore(tmp_path / "kept", execution=options(workers=1)))(["a text"])
    assert f"{folder} is another encoder there" in str(caught.value)
    assert not (tmp_path / "kept").exists()


# What goes wrong


def test_results_come_whatever_a_worker_loses(cluster, tmp_path):
    squares = pool("squaring")
    batches = [*range(10), ("die once", str(tmp_path / "mark")), *range(10, 20)]
    found = dict(squares.spread(batches))
    assert found == {n: n * n for n in range(20)} | {batches[10]: "done"}


def test_a_batch_that_kills_every_worker_ends_the_run(cluster):
    with pytest.raises(ExecutionError, match=r"one batch has lost 2 workers \(execution.restarts is 1\)"):
        list(pool("squaring", restarts=1).spread([1, "die", 2]))


def test_an_error_of_a_worker_is_the_driver_s(cluster):
    with pytest.raises(ModelError, match="the model refuses this batch"):
        list(pool("squaring").spread([1, "refuse"]))


def test_standing_still_is_an_error_and_no_silence(cluster):
    squares, done = pool("squaring"), []
    squares._options = options(stalled_s=3)  # only now: to start may take longer
    with pytest.raises(ExecutionError, match=r"no worker finished anything in 3 s \(execution.stalled_s\); 1 batches") as caught:
        done.extend(squares.spread(["hang", 1, 2, 3]))
    assert done == [(1, 1), (2, 4), (3, 9)]
    assert caught.value.transient


def test_a_cluster_without_room_is_an_error_that_says_what_it_has(cluster):
    with pytest.raises(ExecutionError, match=r"no worker was ready in 3 s .*2 workers with 64 CPUs .* of 2 CPUs free"):
        pool("squaring", worker_cpus=64, stalled_s=3)


def test_a_worker_of_another_version_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(uae, "__version__", "99.0")
    with pytest.raises(ExecutionError, match=r"it has uae 0\S+ \(code \w+\), and this run 99.0 .*Install the same"):
        pool("squaring")


def test_workers_that_differ_are_refused(cluster):
    with pytest.raises(ExecutionError, match=r"the workers differ, .*: process is"):
        pool("differing")


def test_what_a_worker_cannot_open_is_named(cluster):
    with pytest.raises(ExecutionError, match=r"a worker on .* cannot work: it cannot open /models/there: copy it"):
        pool("failing")


@pytest.mark.parametrize("there", [False, True], ids=["no model", "another model"])
def test_a_model_that_workers_do_not_see_is_named_and_nothing_is_stored(cluster, corpus, tmp_path, tiny_lm, there):
    """All nodes of these tests have one disk. So the model is taken away between the driver's look and the worker's."""
    folder = shutil.copytree(tiny_lm, tmp_path / "lm")
    teacher = asked(folder, options(workers=1))
    if there:
        (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    else:
        shutil.rmtree(folder)
    said = "holds another model there" if there else "it cannot open"
    with pytest.raises(ExecutionError, match=said) as caught:
        run(corpus, teacher)
    assert str(folder) in str(caught.value)
    assert list((corpus / "labels").glob("*.parquet")) == []
