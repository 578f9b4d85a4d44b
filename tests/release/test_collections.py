"""Releases published into a real PostgreSQL with pgvector: they find what FAISS finds, change by rows, nothing is half there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from uae.io.errors import ArtefactError, ConfigError, DatabaseError, InputError
from uae.io.tables import DOCUMENTS, PASSAGES, write_table
from uae.release.build import IndexRecipe, build_release
from uae.release.legs.protocol import Queries
from uae.release.manifest import read_manifest
from uae.release.open import Release

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")
from uae.io.postgres import Database  # noqa: E402
from uae.release.collections.collection import Collection, Followed  # noqa: E402
from uae.release.collections.load import Change  # noqa: E402
from uae.release.collections.publish import prune, publish, rollback  # noqa: E402
from uae.release.store import ReleaseStore  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = IndexRecipe(factory="Flat", recall_target=0.9, serving="torch", max_recall_loss=1.0, min_cosine=0.5)
THINGS = ("pump", "seal", "fan", "lodge", "valve", "brine", "gauge", "crane", "boiler", "hatch")
# Several passages say the same, so that equal scores occur.
TEXTS = [f"The {a} is near the {b}." for a in THINGS for b in THINGS] + ["Keys hang in the lodge."] * 5
QUERIES = ["Where are the keys?", "Which pump is near the fan?", "brine", "Is the hatch near the crane?"]


def build(folder: Path, encoder: Path, texts: Sequence[str], recipe: IndexRecipe = RECIPE, base: Path | None = None) -> Path:
    """A release of one passage a text, of ten passages a document; a passage's id is a hash of its place."""
    documents = [
        {"doc_id": f"d{n}", "source": f"{n}.md", "title": "T", "version": "", "text": "", "sections": []}
        | {"metadata": json.dumps({"year": 2000 + n})}
        for n in range((len(texts) + 9) // 10)
    ]
    passages = [
        {
            "passage_id": f"{(n * 7919) % 1009:04d}",
            "doc_id": f"d{n // 10}",
            "title": "T",
            "source": f"{n // 10}.md",
            "section": "",
        }
        | {"position": n % 10, "start": 0, "end": len(text), "text": text}
        for n, text in enumerate(texts)
    ]
    write_table(folder / "documents.parquet", DOCUMENTS, documents)
    write_table(folder / "passages.parquet", PASSAGES, passages)
    build_release(
        documents_path=folder / "documents.parquet", passages_path=folder / "passages.parquet", questions_path=None,
        encoder_path=encoder, base_path=base, release_path=folder / "release", recipe=recipe, scope="corpus",
        passage_words=140, device="cpu",
    )  # fmt: skip
    return folder / "release"


@pytest.fixture(scope="module")
def release(tmp_path_factory, tiny_encoder) -> Path:
    return build(tmp_path_factory.mktemp("first"), tiny_encoder, TEXTS, base=tiny_encoder)


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory, tiny_encoder) -> Path:
    """The last passage is gone, one is edited, two are new."""
    texts = [*TEXTS[:-1], "Call Lunde first.", "The pump is primed by hand."]
    texts[3] = "The pump was moved away."
    return build(tmp_path_factory.mktemp("second"), tiny_encoder, texts)


@pytest.fixture
def collection(new_database):
    database = Database(new_database(), read_only=False)
    yield Collection(database, "uae")
    database.close()


def fingerprint(folder: Path) -> str:
    return read_manifest(folder).fingerprint


def rows(collection: Collection, table: str = "vectors_1") -> int:
    statement = collection.names.fill("select count(*) from {table}", table=psycopg.sql.Identifier("uae", table))
    return collection.database.run(lambda connection: connection.execute(statement).fetchone()[0])


def found(opened: Release, filters: dict, k: int, system: str) -> list:
    vectors = opened.encode(QUERIES, "query", system) if opened.has_vectors(system) else None
    return opened.find(Queries(QUERIES, vectors), k, opened.rows(filters), system=system)


FILTERS = ({}, {"doc_id": "d3"}, {"year": {"gte": 2002, "lte": 2008}}, {"source": ["0.md", "10.md"]})


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("system", ["uae", "base", "bm25"])
def test_what_is_found_equals_what_faiss_finds(release, collection, filters, system):
    publish(release, collection)
    ours, theirs = Release(release, "cpu", vectors=collection), Release(release, "cpu")
    for k in (1, 7, 200):
        assert found(ours, filters, k, system) == found(theirs, filters, k, system)


def test_a_fusion_with_bm25_finds_the_same(release, collection):
    from uae.measures.fusion import Fusion
    from uae.release.legs.fused import FusedLegs

    publish(release, collection)
    answers = []
    for opened in (Release(release, "cpu", vectors=collection), Release(release, "cpu")):
        fused = FusedLegs(
            opened.legs["dense"], opened.legs["bm25"], Fusion("scores", 0.4), len(opened.passages), opened.passages.places
        )
        vectors = opened.encode(QUERIES, "query")
        answers += [fused.find(Queries(QUERIES, vectors), 10, some) for some in (None, opened.rows({"year": {"gte": 2005}}))]
    for ours, theirs in zip(answers[:2], answers[2:], strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_flat_release_is_searched_exactly_and_another_by_a_graph_that_has_the_recall(
    release, collection, tmp_path, tiny_encoder, monkeypatch
):
    exact = publish(release, collection).changes
    assert exact == {"dense": Change(105, 0, 0, None, 1.0), "base": Change(105, 0, 0, None, 1.0)}
    assert rows(collection) == 105  # one encoder's vectors are there once
    graph = build(tmp_path, tiny_encoder, TEXTS[:90], RECIPE._replace(factory="HNSW8"))
    change = publish(graph, collection).changes["dense"]
    assert change.breadth is not None
    assert change.recall >= RECIPE.recall_target
    assert (change.added, change.ended, change.kept) == (0, 15, 90)
    opened = Release(graph, "cpu", vectors=collection)
    truth = Release(release, "cpu", vectors=collection)
    for filters in ({}, {"year": {"gte": 2002, "lte": 2008}}):
        for module in ("nearest", "pgvector"):  # no filter is small enough to be searched exactly
            monkeypatch.setattr(f"uae.index.{module}.EXHAUSTIVE_ROWS", 0)
        some = filters or {"year": {"lte": 2008}}
        for ours, theirs in zip(found(opened, filters, 5, "uae"), found(truth, some, 5, "uae"), strict=True):
            assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-6)
    # The release before is still searched exactly, though its table has a graph now.
    assert found(truth, {}, 7, "uae") == found(Release(release, "cpu"), {}, 7, "uae")


def test_effort_is_tuned_on_queries_that_are_farther_from_passages_than_their_beginnings(release):
    from uae.release.collections.method import between

    opened = Release(release, "cpu")
    beginnings = opened.encode(TEXTS[:60], "query")
    queries = between(beginnings, 5)
    assert np.linalg.norm(queries, axis=1) == pytest.approx(np.ones(300))
    assert len(np.unique(queries.round(5), axis=0)) == 300
    nearest = [opened.legs["dense"].find(Queries([""], each[None]), 1, None)[0].item() for each in queries]
    own = [opened.legs["dense"].find(Queries([""], each[None]), 1, None)[0].item() for each in beginnings]
    assert np.mean(nearest) < np.mean(own)
    assert between(beginnings[:1], 2) == pytest.approx(beginnings[[0, 0]], abs=1e-6)


def test_a_server_without_the_memory_for_a_graph_is_named(release, collection, caplog):
    with collection.database.transaction() as connection:
        name = connection.execute("select current_database()").fetchone()[0]
        statement = "alter database {} set maintenance_work_mem = '64kB'"
        connection.execute(psycopg.sql.SQL(statement).format(psycopg.sql.Identifier(name)))
    publish(release, collection, "hnsw")
    assert "the database: hnsw graph no longer fits into maintenance_work_mem" in caplog.text


def test_a_refresh_is_written_as_changes_and_both_releases_answer(release, refreshed, collection):
    publish(release, collection)
    before = Release(release, "cpu", vectors=collection)
    published = publish(refreshed, collection)
    assert published == (fingerprint(refreshed), fingerprint(release), {"dense": Change(3, 2, 103, None, 1.0)})
    assert rows(collection) == 105 + 3
    after = Release(refreshed, "cpu", vectors=collection)
    for opened, folder in ((before, release), (after, refreshed)):
        assert found(opened, {}, 20, "uae") == found(Release(folder, "cpu"), {}, 20, "uae")
    assert collection.active() == fingerprint(refreshed)


def test_rollback_goes_back_and_a_release_that_is_there_is_not_loaded_again(release, refreshed, collection):
    publish(release, collection)
    with pytest.raises(InputError, match="no release before this one"):
        rollback(collection)
    publish(refreshed, collection)
    assert rollback(collection) == fingerprint(release) == collection.active()
    with pytest.raises(InputError, match="no release before this one"):
        rollback(collection)
    again = publish(refreshed, collection)
    assert (again.changes, again.before) == ({}, fingerprint(release))
    assert publish(refreshed, collection).changes == {}
    assert rollback(collection) == fingerprint(release)


def test_prune_takes_out_the_rows_that_no_other_release_has(release, refreshed, collection, tmp_path, tiny_encoder):
    publish(release, collection)
    publish(refreshed, collection)
    assert prune(collection, 0) == []  # one is active, the other what rollback goes to
    third = build(tmp_path, tiny_encoder, TEXTS[:50])
    publish(third, collection)
    assert prune(collection, 0) == [fingerprint(release)]
    assert rows(collection) == 106 + 1  # the third has a text that the second had edited
    with pytest.raises(ArtefactError, match=f"does not hold release {fingerprint(release)[:12]}"):
        Release(release, "cpu", vectors=collection)
    rollback(collection)
    assert prune(collection, 0) == [fingerprint(third)]
    # What the third ended and the second has is alive again.
    assert publish(third, collection).changes["dense"] == Change(1, 57, 49, None, 1.0)


def test_prune_leaves_no_changed_or_deleted_row_in_the_graph(release, refreshed, collection):
    publish(release, collection, "hnsw")
    publish(refreshed, collection, "hnsw")
    table = "(select 'uae.vectors_1'::pg_catalog.regclass)"
    statement = f"select pg_catalog.pg_stat_get_dead_tuples({table}), pg_catalog.pg_stat_get_vacuum_count({table})"
    assert one(collection, statement)[1] == 0
    prune(collection, 3)
    assert one(collection, statement) == (0, 1)


GRAPHS = """
select count(*), coalesce(bool_and(indisvalid), false), max(pg_catalog.pg_relation_filenode(indexrelid)) from pg_catalog.pg_index
where indrelid = 'uae.vectors_1'::pg_catalog.regclass and not indisprimary
"""
CHANGED = "select changed from uae.spaces"


def one(collection: Collection, statement: str) -> tuple:
    return collection.database.run(lambda connection: connection.execute(statement).fetchone())


def change(collection: Collection, statement: str) -> None:
    collection.database.run(lambda connection: connection.execute(statement))


def test_prune_builds_a_graph_anew_once_enough_rows_went_in_or_out(release, refreshed, collection, tmp_path, tiny_encoder):
    publish(release, collection, "hnsw")
    first = one(collection, GRAPHS)
    assert (first[:2], one(collection, CHANGED)) == ((1, True), (0,))
    texts = list(TEXTS)
    texts[3] = "The pump was moved away."
    publish(build(tmp_path, tiny_encoder, texts), collection, "hnsw")
    prune(collection, 3)
    assert (one(collection, GRAPHS), one(collection, CHANGED)) == (first, (1,))  # 1 of 106
    publish(refreshed, collection, "hnsw")
    assert one(collection, CHANGED) == (3,)
    assert prune(collection, 0) == [fingerprint(release)]  # with one row, which makes 4 of 107
    again = one(collection, GRAPHS)
    assert (again[:2], one(collection, CHANGED)) == ((1, True), (0,))
    assert again != first
    assert found(Release(refreshed, "cpu", vectors=collection), {}, 5, "uae")
    prune(collection, 0)
    assert one(collection, GRAPHS) == again


def test_a_collection_of_an_earlier_version_is_served_and_its_graph_is_built_anew_once(release, refreshed, collection):
    publish(release, collection, "hnsw")
    change(collection, "alter table uae.spaces drop column changed")
    first = one(collection, GRAPHS)
    assert Release(release, "cpu", vectors=collection).search(QUERIES, 3)
    publish(refreshed, collection, "hnsw")
    assert one(collection, CHANGED) == (None,)
    prune(collection, 3)
    assert one(collection, GRAPHS) != first
    assert one(collection, CHANGED) == (0,)
    change(collection, "alter table uae.spaces drop column changed")
    prune(collection, 3)
    assert one(collection, CHANGED) == (0,)


PRUNED = """
import sys
from uae.io.postgres import Database
from uae.release.collections.collection import Collection
from uae.release.collections.publish import prune
prune(Collection(Database(sys.argv[1], statement_s=0, read_only=False), "uae"), 3)
"""


def test_while_a_graph_is_built_anew_searches_go_on_and_a_killed_one_is_taken_out(
    release, refreshed, new_database, tmp_path, tiny_encoder
):
    address = new_database()
    collection = Collection(Database(address, read_only=False), "uae")
    publish(release, collection, "hnsw")
    publish(refreshed, collection, "hnsw")
    first, opened = one(collection, GRAPHS), Release(refreshed, "cpu", vectors=collection)
    before = found(opened, {}, 5, "uae")
    third = build(tmp_path, tiny_encoder, TEXTS[:50])
    at_work = "select count(*) from pg_stat_activity where datname = current_database() and query like 'reindex%'"
    with collection.database.transaction() as writing:  # which the new graph has to wait for
        writing.execute("lock table uae.vectors_1 in row exclusive mode")
        pruning = subprocess.Popen([sys.executable, "-c", PRUNED, address], cwd=ROOT)
        try:
            wait_until(lambda: one(collection, GRAPHS)[0] == 2)
            assert found(opened, {}, 5, "uae") == before
            assert found(Release(release, "cpu", vectors=collection), {}, 5, "uae")
            for refused in (lambda: publish(third, collection, "hnsw"), lambda: prune(collection, 3)):
                with pytest.raises(DatabaseError, match="its graph is built anew") as error:
                    refused()
                assert error.value.transient
            assert rollback(collection) == fingerprint(release)
            assert publish(refreshed, collection).changes == {}  # nothing has to be loaded
        finally:
            pruning.kill()
            pruning.wait()
        wait_until(lambda: one(collection, at_work) == (0,))
    assert one(collection, GRAPHS)[:2] == (2, False)
    assert publish(third, collection, "hnsw").changes
    prune(collection, 3)
    again = one(collection, GRAPHS)
    assert (again[:2], one(collection, CHANGED)) == ((1, True), (0,))
    assert again != first
    assert found(Release(refreshed, "cpu", vectors=collection), {}, 5, "uae")


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within two minutes")


class Noting:
    """A connection that notes what values statements get."""

    def __init__(self, connection, seen: list):
        self._connection, self._seen = connection, seen

    def execute(self, statement, values=None, **how):
        self._seen.append(values)
        return self._connection.execute(statement, values, **how)

    def __getattr__(self, name: str):
        return getattr(self._connection, name)


def test_a_search_gets_more_places_where_the_table_has_rows_of_other_releases(
    release, refreshed, collection, tmp_path, tiny_encoder, monkeypatch
):
    publish(release, collection, "hnsw")
    half = publish(build(tmp_path, tiny_encoder, TEXTS[:50]), collection, "hnsw").changes["dense"]
    run, seen = collection.database.run, []
    monkeypatch.setattr(collection.database, "run", lambda work: run(lambda connection: work(Noting(connection, seen))))

    def places(folder: Path, breadth: int) -> str:
        change(collection, f"update uae.legs set breadth = {breadth}")
        opened = Release(folder, "cpu", vectors=collection)
        seen.clear()
        opened.search(QUERIES, 1)
        return next(values[0] for values in seen if isinstance(values, tuple))

    assert half.breadth is not None
    assert places(release, 40) == "40"
    assert places(tmp_path / "release", 40) == "84"  # of 105 rows 50 are its own
    assert places(tmp_path / "release", 999) == "1000"  # the most that pgvector takes


@pytest.mark.parametrize("about", [10, 39, 47, 48, 100, 1000])
def test_effort_settles_at_the_smallest_that_has_the_recall(about):
    from uae.release.collections.method import settled

    asked = []

    def recall(value: int) -> float:
        asked.append(value)
        return 1 - 2.4 / value

    value, reached = settled(recall, about, 10, 1000, 0.95)
    assert (reached >= 0.95, recall(value)) == (True, reached)
    assert 48 <= value <= 48 + max(value // 32, 1)
    assert settled(recall, about, 10, 1000, 0.999) == (1000, recall(1000))
    assert settled(recall, about, 60, 1000, 0.9)[0] == 60 if about >= 60 else about


def test_a_release_that_is_pruned_while_it_is_served_is_an_error_and_no_shorter_answer(release, refreshed, collection):
    publish(release, collection)
    opened = Release(release, "cpu", vectors=collection)
    for each in (refreshed, release, refreshed):
        publish(each, collection)
    collection.database.run(lambda connection: connection.execute("delete from uae.vectors_1 where since = 1"))
    with pytest.raises(DatabaseError, match="no longer holds what it held"):
        opened.search(QUERIES, 3)


def test_another_encoders_release_goes_into_a_table_of_its_own(release, collection, tmp_path, tokenizer, tiny_encoder):
    other = another_encoder(tmp_path, tiny_encoder)
    publish(release, collection)
    second = build(tmp_path / "other", other, TEXTS)
    change = publish(second, collection).changes["dense"]
    assert (change.added, change.kept) == (105, 0)
    for folder in (release, second):
        opened = Release(folder, "cpu", vectors=collection)
        assert found(opened, {}, 5, "uae") == found(Release(folder, "cpu"), {}, 5, "uae")
    rollback(collection)
    assert prune(collection, 0) == [fingerprint(second)]
    with pytest.raises(DatabaseError, match="does not exist"):
        rows(collection, "vectors_2")


def another_encoder(folder: Path, encoder: Path) -> Path:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(encoder), device="cpu")
    for weights in model.parameters():
        weights.data += 0.3 * weights.data.roll(1, 0)
    model.save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def test_vectors_of_another_encoder_are_refused_and_both_are_named(release, collection):
    publish(release, collection)
    ours = read_manifest(release).dense().document_encoder

    change(collection, "update uae.spaces set document_encoder = 'strangersencoder'")
    with pytest.raises(ArtefactError, match=rf"document_encoder strangersenc.* is\s+{ours[:12]}: vectors of one mean nothing"):
        Release(release, "cpu", vectors=collection)
    change(collection, f"update uae.spaces set document_encoder = '{ours}'")
    # A hash can be written by anybody: the vectors themselves are looked at, too.
    change(collection, "update uae.vectors_1 a set embedding = b.embedding from uae.vectors_1 b where b.id = 106 - a.id")
    with pytest.raises(ArtefactError, match=r"database .* does not hold the vectors of encoder"):
        Release(release, "cpu", vectors=collection)
    with pytest.raises(ArtefactError, match="does not hold the vectors of encoder"):
        publish(build(release.parent / "more", release / "legs" / "dense" / "encoder", [*TEXTS, "More."]), collection)
    assert collection.active() == fingerprint(release)


def test_other_passages_are_refused(release, collection):
    publish(release, collection)
    collection.database.run(lambda connection: connection.execute("update uae.vectors_1 set passage_id = 'x' where id = 5"))
    with pytest.raises(ArtefactError, match="does not have the passages of the release; the first that differs is"):
        Release(release, "cpu", vectors=collection)
    collection.database.run(lambda connection: connection.execute("delete from uae.vectors_1 where id = 5"))
    with pytest.raises(ArtefactError, match="does not have the passages of the release"):
        Release(release, "cpu", vectors=collection)
    with pytest.raises(ArtefactError, match="holds 104 of 105 vectors of leg"):
        publish(release, collection)


def test_a_collection_or_a_release_that_is_not_there_is_named(release, refreshed, collection):
    with pytest.raises(ArtefactError, match=r"collection 'uae' of database .* does not exist: publish a release into it first"):
        Release(release, "cpu", vectors=collection)
    publish(release, collection)
    with pytest.raises(ArtefactError, match=rf"does not hold release {fingerprint(refreshed)[:12]} \(it holds"):
        Release(refreshed, "cpu", vectors=collection)
    with pytest.raises(ArtefactError, match=r"'public' .* is a schema with other tables"):
        publish(release, Collection(collection.database, "public"))
    collection.database.run(lambda connection: connection.execute("update uae.collection set form = 99"))
    with pytest.raises(ArtefactError, match="is of form 99, and this version of uae knows form 1"):
        publish(refreshed, collection)


def test_names_are_quoted(release, collection):
    strange = Collection(collection.database, 'a"; drop schema public; --')
    publish(release, strange)
    assert strange.active() == fingerprint(release)
    assert Release(release, "cpu", vectors=strange).search(["keys"], 1)
    for name in ("", "x" * 64, "a\0b"):
        with pytest.raises(ConfigError, match="1 to 63 bytes"):
            Collection(collection.database, name)


def test_one_writer_at_a_time(release, collection):
    with collection.database.transaction() as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('uae collection uae', 0))")
        with pytest.raises(DatabaseError, match="being changed by another process") as error:
            publish(release, collection)
    assert error.value.transient
    assert publish(release, collection).changes


KILLED = """
import os, signal, sys
from pathlib import Path
import uae.release.collections.load as load
from uae.io.postgres import Database
from uae.release.collections.collection import Collection
from uae.release.collections.publish import publish
load.choose_method = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all rows are written, nothing is committed
publish(Path(sys.argv[2]), Collection(Database(sys.argv[1], read_only=False), "uae"))
"""


def test_a_killed_publication_leaves_nothing(release, refreshed, new_database):
    address = new_database()
    collection = Collection(Database(address, read_only=False), "uae")

    def killed(folder: Path) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, address, str(folder)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr

    killed(release)
    with pytest.raises(ArtefactError, match="does not exist"):
        collection.active()
    publish(release, collection)
    killed(refreshed)
    assert [each.release for each in collection.publications()] == [fingerprint(release)]
    assert rows(collection) == 105
    assert publish(refreshed, collection).changes["dense"] == Change(3, 2, 103, None, 1.0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://me:hunter2@127.0.0.1:9/d", r"database 127\.0\.0\.1:9/d does not answer: .*refused"),
        ("postgresql://me:hunter2@no-such-host.invalid/d", r"database no-such-host\.invalid:5432/d does not answer"),
    ],
)
def test_an_address_that_nobody_answers_at_is_named_without_the_password(release, address, message):
    with pytest.raises(DatabaseError, match=message) as error:
        publish(release, Collection(Database(address, read_only=False), "uae"))
    assert error.value.transient
    assert "hunter2" not in str(error.value) + repr(Database(address))


@pytest.mark.parametrize(
    "address",
    ["me:hunter2@host/d", "postgresql://me:hunter2@host:port/d", "mysql://me:hunter2@host/d", "postgresql://me:hunter2%@h/d", ""],
)
def test_what_is_no_address_is_refused_without_the_password(address):
    with pytest.raises(ConfigError, match="postgresql://user@host:port/database") as error:
        Database(address)
    assert "hunter2" not in str(error.value)


def test_a_password_among_the_parameters_is_not_told(postgres):
    address = f"{postgres.get_uri(database='not_there')}&password=hunter2"
    with pytest.raises(DatabaseError, match='"not_there" does not exist') as error:
        Database(address).ping()
    assert "hunter2" not in str(error.value)


def test_a_database_without_the_extension_is_named(release, new_database):
    address = new_database(extension=False)
    name = address.partition("?")[0].rpartition("/")[2]
    with pytest.raises(DatabaseError, match=rf"/{name} has no extension vector: .* CREATE EXTENSION vector"):
        publish(release, Collection(Database(address, read_only=False), "uae"))


def test_too_old_an_extension_is_named(release, new_database):
    address = new_database()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("update pg_extension set extversion = '0.7.4' where extname = 'vector'")
    with pytest.raises(DatabaseError, match=r"pgvector 0\.7\.4, and 0\.8 or later is needed"):
        Database(address).ping()


def test_the_extension_may_lie_in_a_schema_of_its_own(release, new_database):
    address = new_database(extension=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute('create schema "Ext ensions"; create extension vector schema "Ext ensions"')
    collection = Collection(Database(address, read_only=False), "uae")
    publish(release, collection)
    opened = Release(release, "cpu", vectors=collection)
    assert found(opened, {}, 5, "uae") == found(Release(release, "cpu"), {}, 5, "uae")


def test_who_serves_may_change_nothing(release, new_database):
    address = new_database()
    publish(release, Collection(Database(address, read_only=False), "uae"))
    with pytest.raises(DatabaseError, match=r"refuses: .*read-only transaction"):
        publish(release, Collection(Database(address), "uae"))


def test_a_database_that_was_started_anew_is_asked_again(release, new_database, postgres):
    address = new_database()
    publish(release, Collection(Database(address, read_only=False), "uae"))
    opened = Release(release, "cpu", vectors=Collection(Database(address), "uae"))
    before = found(opened, {}, 5, "uae")
    postgres.stop()
    try:
        with pytest.raises(DatabaseError, match="does not answer") as error:
            opened.search(QUERIES, 3)
        assert error.value.transient
    finally:
        postgres.start()
    assert found(opened, {}, 5, "uae") == before


def test_a_statement_that_takes_too_long_is_given_up(new_database):
    database = Database(new_database(), statement_s=0.05)
    with pytest.raises(DatabaseError, match=r"gave up a statement: .*statement timeout") as error:
        database.run(lambda connection: connection.execute("select pg_sleep(30)"))
    assert error.value.transient


def test_the_active_release_of_a_collection_is_followed_with_the_files_of_a_store(release, refreshed, collection, tmp_path):
    store = ReleaseStore(tmp_path / "store")
    followed = Followed(collection, store)
    assert "does not exist" in str(followed.stamp())
    publish(release, collection)
    first = followed.stamp()
    with pytest.raises(ArtefactError, match=rf"release {fingerprint(release)[:12]} is active in .*, and .* holds no release"):
        followed.active()
    store.install(release, None)
    assert followed.active() == (fingerprint(release), store.path(fingerprint(release)))
    publish(refreshed, collection)
    assert followed.stamp() != first


def test_without_psycopg_the_message_names_the_extra():
    code = "import sys; sys.modules['psycopg'] = None\nimport uae.io.postgres"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert re.search(r"ConfigError: .*extra postgres \(pip install", done.stderr)
