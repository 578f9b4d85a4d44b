"""The store of releases, and what comes into it from MLflow's registry."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from tiny_releases import tiny_release

import uae.release.store
import uae.serving.follow
from uae.io.errors import ArtefactError, InputError, RegistryError
from uae.io.files import read_json
from uae.registry.tracking import RELEASE_TAG, connect
from uae.registry.versions import origin_of
from uae.release.manifest import read_manifest
from uae.release.store import ReleaseStore, read_origin
from uae.serving.follow import follow, install_version, registered, step

INDEX = "legs/dense/index.faiss"
ORIGIN = {"model": "uae-retriever", "version": 3, "promoted_at": "2026-11-21T00:00:00+00:00", "metrics": {"map": 0.5}}


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_encoder) -> dict[str, Path]:
    """Two release folders by their fingerprints."""
    root = tmp_path_factory.mktemp("built")
    texts = {"harbour": ["The crane stands still.", "Ropes lie on the quay."], "kitchen": ["The oven is hot.", "Salt is low."]}
    folders = [tiny_release(root / name, tiny_encoder, lines, name, "torch") for name, lines in texts.items()]
    return {read_manifest(folder).fingerprint: folder for folder in folders}


@pytest.fixture
def one(built) -> str:
    return next(iter(built))


@pytest.fixture
def two(built) -> str:
    return list(built)[1]


@pytest.fixture
def store(tmp_path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store")


@pytest.fixture
def filled(store, built) -> ReleaseStore:
    for folder in built.values():
        store.install(folder, None)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pretend(store: ReleaseStore, fingerprint: str) -> str:
    """A folder that passes for an installed release as long as nobody opens it."""
    folder = store.folder / "releases" / fingerprint
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return fingerprint


# Installing


def test_install_copies_a_whole_release_and_notes_its_origin(store, built, one):
    assert store.install(built[one], ORIGIN) == one
    assert contents(store.path(one)) == contents(built[one])
    assert read_origin(store.path(one)) == ORIGIN
    assert store.active() is None
    (installed,) = store.installed()
    assert (installed.fingerprint, installed.origin, installed.is_active, installed.is_before) == (one, ORIGIN, False, False)


@pytest.mark.parametrize(
    ("origin", "strange"),
    [
        (["uae-retriever", 3], "what it says"),
        ({"model": ["uae-retriever"]}, "'model'"),
        ({"version": 3.5}, "'version'"),
        ({"promoted_at": 1764000000}, "'promoted_at'"),
        ({"metrics": [0.5]}, "'metrics'"),
    ],
    ids=str,
)
def test_an_origin_that_no_service_can_tell_is_refused_by_its_file(tmp_path, origin, strange):
    (tmp_path / "release.origin.json").write_text(json.dumps(origin))
    with pytest.raises(ArtefactError, match=f"release.origin.json: {strange} is not what uae release writes there"):
        read_origin(tmp_path / "release")
    (tmp_path / "release.origin.json").write_text(json.dumps({"model": None, "version": "7"}))
    assert read_origin(tmp_path / "release") == {"model": None, "version": "7"}


def test_a_damaged_origin_hides_no_release_from_the_list(store):
    one, other = pretend(store, "a" * 64), pretend(store, "b" * 64)
    (store.path(one).parent / f"{one}.origin.json").write_text("[]")
    store.note_origin(other, ORIGIN)
    assert {each.fingerprint: each.origin for each in store.installed()} == {one: None, other: ORIGIN}


def test_an_intact_release_is_not_copied_again_but_its_origin_is_renewed(store, built, one):
    store.install(built[one], ORIGIN)
    index = store.path(one) / INDEX
    before = index.stat().st_ino, index.stat().st_ctime_ns
    store.install(built[one], None)
    assert read_origin(store.path(one)) == ORIGIN
    store.install(built[one], ORIGIN | {"version": 4})
    assert (index.stat().st_ino, index.stat().st_ctime_ns) == before
    assert read_origin(store.path(one))["version"] == 4


def test_a_damaged_release_is_replaced_by_installing_it_again(store, built, one):
    store.install(built[one], ORIGIN)
    (store.path(one) / INDEX).write_bytes(b"half")
    assert not store.is_intact(one)
    store.install(built[one], None)
    assert contents(store.path(one)) == contents(built[one])
    assert read_origin(store.path(one)) == ORIGIN


@pytest.mark.parametrize("name", [INDEX, "manifest.json"])
def test_a_damaged_source_never_enters(store, built, one, tmp_path, name):
    source = shutil.copytree(built[one], tmp_path / "source")
    (source / name).write_bytes((source / name).read_bytes()[:-9])
    with pytest.raises(ArtefactError):
        store.install(source, ORIGIN)
    assert store.installed() == []


def test_a_source_whose_files_lie_elsewhere_never_enters(store, built, one, tmp_path):
    source = shutil.copytree(built[one], tmp_path / "source")
    os.replace(source / INDEX, tmp_path / "elsewhere")
    (source / INDEX).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="leads out"):
        store.install(source, None)
    assert store.installed() == []


# Activating


def test_activate_and_rollback_walk_back_through_what_was_active(filled, one, two):
    with pytest.raises(InputError, match="no release before"):
        filled.rollback()
    for fingerprint in (one, two, two, one):  # the second time it is active already
        filled.activate(fingerprint)
    assert filled.active() == (one, filled.path(one))
    assert filled.rollback() == two
    assert [(each.fingerprint, each.is_active, each.is_before) for each in filled.installed()] in (
        [(one, False, True), (two, True, False)],
        [(two, True, False), (one, False, True)],
    )
    assert filled.rollback() == one
    assert filled.active().fingerprint == one
    with pytest.raises(InputError, match="no release before"):
        filled.rollback()
    actions = [(entry["release"], entry["action"]) for entry in read_json(filled.folder / "active.json")["history"]]
    assert actions == [(one, "activate"), (two, "activate"), (one, "activate"), (two, "rollback"), (one, "rollback")]


def test_the_stamp_changes_with_every_activation(filled, one, two):
    stamps = [filled.stamp()]
    for fingerprint in (one, two, one):
        filled.activate(fingerprint)
        stamps.append(filled.stamp())
        assert filled.stamp() == stamps[-1]
    assert len(set(stamps)) == 4
    assert stamps[0] is None


@pytest.mark.parametrize("name", [INDEX, "passages.parquet"])
def test_a_broken_release_is_never_activated(filled, one, two, name):
    filled.activate(one)
    state = filled.stamp()
    broken = filled.path(two) / name
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=name):
        filled.activate(two)
    assert filled.stamp() == state


def test_rollback_to_a_broken_or_missing_release_changes_nothing(filled, one, two):
    filled.activate(one)
    filled.activate(two)
    state = filled.stamp()
    (filled.path(one) / INDEX).unlink()
    with pytest.raises(ArtefactError, match=r"index\.faiss"):
        filled.rollback()
    shutil.rmtree(filled.path(one))
    with pytest.raises(ArtefactError, match="install it first"):
        filled.rollback()
    assert filled.stamp() == state


BAD = ["", "..", "../../etc", "a" * 63, "A" * 64, "a" * 63 + "/", "a" * 64 + "\n", None, 7, ["a" * 64]]


@pytest.mark.parametrize("fingerprint", BAD)
def test_what_is_no_fingerprint_becomes_no_path(filled, one, fingerprint):
    filled.activate(one)
    with pytest.raises(ArtefactError, match="no release's fingerprint"):
        filled.activate(fingerprint)
    state = read_json(filled.folder / "active.json")
    for changed in (state | {"active": fingerprint}, state | {"before": [fingerprint]}):
        (filled.folder / "active.json").write_text(json.dumps(changed))
        with pytest.raises(ArtefactError, match="no release's fingerprint"):
            filled.active()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"active": null}', '{"active": 1, "before": {}, "history": []}', "\xff"]
)
def test_a_broken_active_json_is_refused(filled, one, content):
    filled.activate(one)
    (filled.folder / "active.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ArtefactError, match=r"active\.json"):
        filled.active()
    (filled.folder / "active.json").unlink()  # as the message says
    filled.activate(one)
    assert filled.active().fingerprint == one


def test_a_missing_or_foreign_release_is_refused(filled, one, two):
    filled.activate(one)
    path = filled.path(one)
    shutil.rmtree(path)
    with pytest.raises(ArtefactError, match="install it first"):
        filled.active()
    shutil.copytree(filled.path(two), path)
    with pytest.raises(ArtefactError, match=f"holds release {two[:12]}, not {one[:12]}"):
        filled.active()


@pytest.mark.parametrize("linked", ["", INDEX, "legs/dense/encoder"])
def test_links_in_the_store_are_refused(filled, one, tmp_path, linked):
    filled.activate(one)
    path = filled.path(one) / linked
    os.replace(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="is a link"):
        filled.active()
    assert not filled.is_intact(one)


def test_find_takes_a_unique_prefix(store):
    first, second = pretend(store, "ab" * 32), pretend(store, "ab" * 31 + "cd")
    other = pretend(store, "12345678" * 8)
    assert store.find(other[:8]) == other
    assert store.find(other) == other
    assert store.find(first) == first
    assert store.find(second) == second
    assert store.find(other[:7]) is None  # too short to mean it
    assert store.find("ffffffff") is None
    assert store.find("champion") is None
    with pytest.raises(InputError, match="2 releases"):
        store.find("abababab")


def test_prune_keeps_the_newest_the_active_and_the_one_before(store, monkeypatch):
    monkeypatch.setattr(ReleaseStore, "_open_once", lambda self, fingerprint: self.path(fingerprint))
    names = [pretend(store, f"{n:064x}") for n in range(6)]
    ages = {name: n for n, name in enumerate(names)}
    monkeypatch.setattr("uae.release.store._changed_at", lambda path: datetime(2026, 1, 1 + ages[path.name], tzinfo=UTC))
    for n in (2, 0, 1):
        store.activate(names[n])
    assert sorted(store.prune(1)) == [names[2], names[3], names[4]]
    assert sorted(each.fingerprint for each in store.installed()) == [names[0], names[1], names[5]]
    assert store.rollback() == names[0]
    with pytest.raises(InputError, match="no release before"):  # that one was removed
        store.rollback()
    assert store.prune(0) == [names[5], names[1]]
    assert [path.name for path in (store.folder / "releases").iterdir() if path.is_dir()] == [names[0]]


@pytest.mark.parametrize("action", ["activate", "rollback"])
def test_what_is_gone_by_the_end_of_its_check_is_not_activated(filled, one, two, monkeypatch, action):
    filled.activate(two)
    filled.activate(one)
    state, check = filled.stamp(), ReleaseStore._open_once

    def check_and_lose(self, fingerprint):
        check(self, fingerprint)
        shutil.rmtree(self.path(fingerprint))

    monkeypatch.setattr(ReleaseStore, "_open_once", check_and_lose)
    with pytest.raises(ArtefactError, match="install it first"):
        filled.activate(two) if action == "activate" else filled.rollback()
    assert filled.stamp() == state
    assert filled.active().fingerprint == one


def test_a_prune_during_the_check_cannot_leave_a_missing_release_active(filled, one, two, monkeypatch):
    filled.activate(one)
    check = ReleaseStore._open_once

    def check_while_another_prunes(self, fingerprint):
        check(self, fingerprint)
        assert ReleaseStore(self.folder).prune(0) == [two]

    monkeypatch.setattr(ReleaseStore, "_open_once", check_while_another_prunes)
    with pytest.raises(ArtefactError, match="install it first"):
        filled.activate(two)
    assert filled.active().fingerprint == one


def test_prune_takes_away_old_downloads_and_leaves_those_that_run(filled, monkeypatch):
    for name in (".download-a", ".download-b"):
        (filled.folder / name / "artifacts").mkdir(parents=True)
    assert filled.prune(2) == []
    assert (filled.folder / ".download-a").exists()
    days = {".download-a": 2, ".download-b": 0}
    changed_at = uae.release.store._changed_at
    monkeypatch.setattr(uae.release.store, "_changed_at", lambda path: changed_at(path) - timedelta(days=days.get(path.name, 9)))
    assert filled.prune(2) == []
    assert [path.name for path in filled.folder.glob(".download-*")] == [".download-b"]


def _activate_all(folder: Path, fingerprints: list[str]) -> None:
    ReleaseStore._open_once = lambda self, fingerprint: self.path(fingerprint)
    for fingerprint in fingerprints:
        ReleaseStore(folder).activate(fingerprint)


def test_processes_that_activate_at_once_lose_nothing(store):
    processes, each = 4, 20
    names = [pretend(store, f"{n:064x}") for n in range(processes * each)]
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=_activate_all, args=(store.folder, names[n * each : (n + 1) * each])) for n in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * processes
    state = read_json(store.folder / "active.json")
    assert sorted([*state["before"], state["active"]]) == names
    assert [entry["release"] for entry in state["history"]] == [*state["before"], state["active"]]


# From the registry

MODEL = "uae-retriever"


class Registry:
    """MLflow in a database of its own, with versions that promote would have made."""

    def __init__(self, root: Path):
        self.root = root
        self.client = self.connect()
        self.client.create_registered_model(MODEL)

    def connect(self) -> MlflowClient:
        return connect("sqlite:///mlflow.db", "e", self.root)

    def register(self, release: Path, metrics: dict[str, float], run_id: str | None = None, tag: str | None = None) -> str:
        with mlflow.start_run(run_id=run_id) as run:
            mlflow.log_metrics({"test/base/map": 0.1} | {f"test/uae/{name}": value for name, value in metrics.items()})
        source = self.root / f"logged-{len(list(self.root.glob('logged-*')))}"
        shutil.copytree(release, source / "artifacts" / "release")
        tags = {RELEASE_TAG: tag or read_manifest(release).fingerprint}
        return str(self.client.create_model_version(MODEL, source.as_uri(), run.info.run_id, tags).version)

    def point(self, version: str, alias: str = "champion") -> None:
        self.client.set_registered_model_alias(MODEL, alias, version)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    """MLflow takes seconds to make one."""
    root = tmp_path_factory.mktemp("mlflow")
    connect("sqlite:///mlflow.db", "e", root)
    return root / "mlflow.db"


@pytest.fixture
def registry(tmp_path, database) -> Registry:
    shutil.copy(database, tmp_path)
    return Registry(tmp_path)


def test_a_version_comes_into_the_store_with_its_own_metrics(registry, store, built, one, two):
    read = "reader_5_best_at_both_ends/token_f1"
    first = registry.register(built[one], {"map": 0.5, "recall_at_1": 0.25, read: 0.125})
    run_id = registered(registry.client, MODEL, first).run_id
    second = registry.register(built[two], {"map": 0.75}, run_id)  # another index, the same encoder: the same run
    for version, release, metrics in (
        (first, one, {"map": 0.5, "recall@1": 0.25, read: 0.125}),
        (second, two, {"map": 0.75, "recall@1": 0.25, read: 0.125}),
    ):
        assert install_version(registry.client, registered(registry.client, MODEL, version), store) == release
        assert contents(store.path(release)) == contents(built[release])
        origin = read_origin(store.path(release))
        assert origin == origin_of(registry.client, registered(registry.client, MODEL, version))
        assert (origin["model"], origin["version"], origin["metrics"]) == (MODEL, int(version), metrics)
        assert origin["promoted_at"].endswith("+00:00")
    assert sorted(path.name for path in store.folder.iterdir()) == ["releases"]  # no download is left behind


def test_a_version_that_is_in_the_store_is_not_fetched_again(registry, store, built, one, monkeypatch):
    version = registered(registry.client, MODEL, registry.register(built[one], {"map": 0.5}))
    store.install(built[one], None)
    monkeypatch.setattr(uae.serving.follow.mlflow.artifacts, "download_artifacts", None)
    assert install_version(registry.client, version, store) == one
    assert read_origin(store.path(one))["version"] == 1


def test_artefacts_of_another_release_than_was_registered_are_refused(registry, store, built, one, two):
    version = registered(registry.client, MODEL, registry.register(built[one], {}, tag=two))
    with pytest.raises(ArtefactError, match=f"registered as release {two[:12]}.*{one[:12]}"):
        install_version(registry.client, version, store)


def test_lost_artefacts_are_an_error_that_names_the_version(registry, store, built, one):
    version = registered(registry.client, MODEL, registry.register(built[one], {}))
    shutil.rmtree(registry.root / "logged-0")
    with pytest.raises(RegistryError, match="version 1: its release cannot be read"):
        install_version(registry.client, version, store)


@pytest.mark.parametrize("version", ["7", "champion"])
def test_an_unknown_version_is_named(registry, version):
    with pytest.raises(InputError, match=f"no (version|alias) '{version}'"):
        registered(registry.client, MODEL, version)


def test_following_activates_when_the_alias_moves_and_leaves_a_rollback_alone(registry, store, built, one, two):
    said = []
    first, second = registry.register(built[one], {}), registry.register(built[two], {})
    look = lambda: step(registry.client, MODEL, "champion", store, said.append)  # noqa: E731
    with pytest.raises(InputError, match="no alias 'champion'"):
        look()
    registry.point(first)
    assert look()
    assert not look()
    registry.point(second)
    assert look()
    assert store.active().fingerprint == two
    store.rollback()
    assert not look()
    assert store.active().fingerprint == one
    registry.point(first)
    assert look()
    assert [line.split(" is active")[0] for line in said] == [f"{MODEL} version {n} (champion)" for n in (1, 2, 1)]


def test_a_damaged_record_of_what_was_followed_is_named(registry, store, built, one):
    registry.point(registry.register(built[one], {}))
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / "followed.json").write_text("[1]")
    with pytest.raises(ArtefactError, match=r"followed\.json is not what uae release follow writes: delete it"):
        step(registry.client, MODEL, "champion", store, print)
    assert store.active() is None


def test_following_outlives_an_unreachable_registry_and_a_damaged_release(registry, store, built, one, two, monkeypatch, caplog):
    """Every round something else is wrong; none of it ends the watch."""
    damaged = shutil.copytree(built[two], registry.root / "damaged")
    version = registry.register(damaged, {})
    (registry.root / "logged-0" / "artifacts" / "release" / INDEX).write_bytes(b"")
    good = registry.register(built[one], {})
    pauses, said = [], []

    def unreachable():
        raise RegistryError("tracking.uri: MLflow cannot be used there", transient=True)

    class Broken:
        def get_model_version_by_alias(self, model, alias):
            raise ConnectionError("reset by peer")

    rounds = iter([unreachable, Broken, registry.connect, registry.connect, registry.connect, registry.connect])
    before = {2: lambda: registry.point(version), 4: lambda: registry.point(good)}

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 6:
            raise KeyboardInterrupt
        before.get(len(pauses), lambda: None)()

    monkeypatch.setattr(uae.serving.follow.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        follow(lambda: next(rounds)(), MODEL, "champion", store, 30, False, said.append)
    assert pauses == [60, 120, 240, 480, 30, 30]
    assert [text in caplog.text for text in ("cannot be used", "reset by peer", "index.faiss")] == [True] * 3
    assert len(said) == 1
    assert store.active().fingerprint == one


def test_an_alias_that_is_not_there_yet_is_looked_for_without_growing_pauses(registry, store, built, one, monkeypatch, caplog):
    pauses: list[float] = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 5:
            registry.point(registry.register(built[one], {}))
        if len(pauses) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(uae.serving.follow.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        follow(registry.connect, MODEL, "champion", store, 30, False, print)
    assert pauses == [30] * 6
    assert caplog.text.count("no alias 'champion'") == 1
    assert store.active().fingerprint == one


def test_once_says_what_failed(registry, store):
    with pytest.raises(InputError, match="no alias 'champion'"):
        follow(registry.connect, MODEL, "champion", store, 30, True, print)


FOLLOWING = """
import sys, time, pathlib
import mlflow
import uae.cli.release, uae.serving.follow

def step(client, model, alias, store, announce):
    uae.serving.follow.install_version(None, Version(), store)

def slow(uri, dst_path):
    (pathlib.Path(dst_path) / "half").write_text("x")
    print("downloading", flush=True)
    time.sleep(120)

class Version:
    name, version, tags = "m", "1", {}

uae.serving.follow.step = step
uae.serving.follow.origin_of = lambda client, version: {}
uae.serving.follow.mlflow.artifacts.download_artifacts = slow
uae.cli.release._connect = lambda settings, root: None
import uae.cli.main
sys.argv[1:] = ["release", "follow", "--store", sys.argv[1], "--params", sys.argv[2]] + sys.argv[3:]
uae.cli.main.main()
"""


@pytest.mark.parametrize("words", [[], ["--once"]])
def test_sigterm_ends_following_and_leaves_no_download(tmp_path, words):
    params = Path(uae.__file__).parent.parent / "params.yaml"
    command = [sys.executable, "-c", FOLLOWING, str(tmp_path / "store"), str(params), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "downloading\n"
        assert list((tmp_path / "store").glob(".download-*/half"))
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not list((tmp_path / "store").glob(".download-*"))
