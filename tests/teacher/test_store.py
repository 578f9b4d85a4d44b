"""The label store: what it keeps, what a kill, a damaged file, a full disk and a second labeller do to it."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import uae
from uae.io import tables as formats
from uae.io.errors import ArtefactError
from uae.io.files import sha256_file
from uae.io.tables import LABELS, write_table
from uae.teacher import store as module
from uae.teacher.parts import KEY
from uae.teacher.store import LabelStore

CPU = {"backend": "transformers", "device": "cpu", "batch_tokens": 64, "share": 0.5, "compiled": False, "device_name": None,
       "template": "Où est {passage}?\n"}  # fmt: skip
GPU = CPU | {"device": "cuda", "device_name": "a GPU"}


def row(number: int) -> dict:
    return {
        "question": f"q{number:04}", "passage": f"p{number % 7}", "answer_id": "a", "template": "t", "teacher": "T",
        "nll_sum": 1.5 * number, "n_tokens": 2, "truncated": False,
    }  # fmt: skip


def rows(*numbers: int) -> list[dict]:
    return [row(number) for number in numbers]


def numbers(store: LabelStore) -> list[int]:
    return sorted(int(question_id[1:]) for question_id in store.read()["question"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sealed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.parquet") if path.name.count(".") == 1)


def loose(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.loose.parquet"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "labels"


@pytest.fixture
def filled(folder) -> Path:
    """Three readings sealed, two loose in one part."""
    store = LabelStore(folder, 3)
    with store.writing():
        store.append(rows(1, 2, 3), CPU)
        store.append(rows(4, 5), CPU)
    return folder


# What it keeps


def test_what_is_appended_is_read(folder):
    store = LabelStore(folder, 3)
    given_rows = [row(number) | {"truncated": number == 2} for number in range(4)]
    with store.writing():
        store.append(given_rows[:1], CPU)
        store.append(given_rows[1:3], CPU)
        store.append(given_rows[3:], CPU)
    assert LabelStore(folder).read().sort_values("question").to_dict("records") == given_rows


def test_keys_are_those_of_the_readings(filled):
    store = LabelStore(filled)
    assert store.keys() == {tuple(row(number)[column] for column in KEY) for number in range(1, 6)}
    assert store.keys() == set(store.read()[list(KEY)].itertuples(index=False, name=None))


def test_an_empty_store_has_the_columns_and_types_of_a_full_one(filled, tmp_path):
    for empty in (LabelStore(tmp_path / "nowhere"), LabelStore(tmp_path)):
        table = empty.read()
        assert len(table) == 0
        assert table.dtypes.equals(LabelStore(filled).read().dtypes)
        assert empty.keys() == set()
        assert empty.provenances() == []


def test_a_batch_without_readings_leaves_no_part(folder):
    store = LabelStore(folder, 1)
    with store.writing():
        store.append([], CPU)
        store.seal()
    assert contents(folder) == {}


@pytest.mark.parametrize("change", [{"extra": 1}, {"n_tokens": None}, {"n_tokens": "two"}], ids=["extra", "null", "word"])
def test_a_row_that_does_not_fit_is_refused_and_nothing_of_its_batch_kept(filled, change):
    before = contents(filled)
    store = LabelStore(filled, 3)
    with store.writing(), pytest.raises(ArtefactError, match=str(filled)):
        store.append([row(6), row(7) | change], CPU)
    assert contents(filled) == before


def test_writing_outside_writing_is_a_mistake(folder):
    store = LabelStore(folder, 3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="writing"):
            store.append(rows(1), CPU)
        with pytest.raises(RuntimeError, match="writing"):
            store.seal()
        with store.writing():
            pass
    assert contents(folder) == {}


def test_a_store_opened_for_reading_is_not_written_to(folder):
    with pytest.raises(ValueError, match="rows_per_part"), LabelStore(folder).writing():
        pass
    assert not folder.exists()


# Provenance


def test_provenances_come_back_with_the_number_of_their_readings(folder):
    store = LabelStore(folder, 2)
    with store.writing():
        store.append(rows(1, 2), CPU)
        store.append(rows(3), dict(reversed(CPU.items())))
        store.append(rows(4), GPU)
    assert store.provenances() == [{"readings": 3, **CPU}, {"readings": 1, **GPU}]


def test_readings_of_two_provenances_are_never_in_one_part(folder):
    store = LabelStore(folder, 3)
    with store.writing():
        store.append(rows(1, 2), CPU)
        store.append(rows(3, 4), GPU)
        assert sealed(folder) == []
        store.append(rows(5), CPU)
        assert (len(sealed(folder)), len(loose(folder))) == (1, 1)
        store.seal()
    assert [pq.read_metadata(folder / name).num_rows for name in sealed(folder)] in ([2, 3], [3, 2])
    assert [provenance["readings"] for provenance in store.provenances()] == [3, 2]


def test_parts_keyed_by_ids_are_refused_with_the_command_and_set_aside_by_the_next_writer(folder):
    """Those of the version before provenance, too: what nobody finds again counts as missing, and the part itself stays."""
    earlier = pa.schema([pa.field("question_id", pa.string()), pa.field("passage_id", pa.string()), *list(LABELS)[2:]])
    old = [{**row(n), "question_id": f"old{n}", "passage_id": "old"} for n in (1, 2)]
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(old, schema=earlier), folder / "part")
    name = f"{sha256_file(folder / 'part')[:32]}.parquet"
    os.replace(folder / "part", folder / name)
    with pytest.raises(ArtefactError, match=rf"{name} was written by an earlier version.*Run `uae label`"):
        LabelStore(folder).read()
    store = LabelStore(folder, 3)
    with store.writing(lambda table: pa.Table.from_pylist(rows(1), schema=LABELS)):
        store.append(rows(3), CPU)
    assert numbers(LabelStore(folder)) == [1, 3]
    assert store.provenances() == [{"readings": 1, **CPU}, {"readings": 1}]
    assert (folder / f"{name}.format-1").exists()
    with store.writing():  # nothing is set aside twice
        pass
    assert numbers(LabelStore(folder)) == [1, 3]


# Sealing


def test_loose_parts_are_merged_as_soon_as_they_hold_enough(folder):
    store = LabelStore(folder, 5)
    counts = []
    with store.writing():
        for batch in (rows(1, 2), rows(3, 4), rows(5, 6), rows(7), rows(*range(8, 20))):
            store.append(batch, CPU)
            counts.append((len(sealed(folder)), len(loose(folder))))
    assert counts == [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    assert numbers(store) == list(range(1, 20))


def test_the_end_of_a_run_seals_what_is_loose(filled):
    store = LabelStore(filled, 3)
    with store.writing():
        store.seal()
        assert (len(sealed(filled)), loose(filled)) == (2, [])
        before = contents(filled)
        store.seal()
    assert contents(filled) == before
    assert numbers(store) == [1, 2, 3, 4, 5]


def test_a_sealed_part_depends_on_its_readings_only(tmp_path):
    """Not on the order or the sizes of batches. Enough readings that Parquet divides them into pages."""
    results = []
    for name, size in (("one", 4000), ("many", 150)):
        store = LabelStore(tmp_path / name, 4000)
        batches = [rows(*range(low, min(low + size, 4000))) for low in range(0, 4000, size)]
        with store.writing():
            for batch in reversed(batches):
                store.append(batch[::-1], CPU)
        results.append(contents(tmp_path / name))
    assert results[0] == results[1]
    assert len(results[0]) == 1


# Batches that come before their turn


def test_an_early_batch_is_kept_at_once_and_counts_when_its_turn_comes(folder):
    store = LabelStore(folder, 4)
    key = tuple(row(5)[column] for column in KEY)
    with store.writing():
        store.append(rows(1, 2), CPU)
        store.append(rows(5, 6), CPU, early=True)
        assert (sealed(folder), numbers(LabelStore(folder)), numbers(store)) == ([], [1, 2, 5, 6], [1, 2, 5, 6])
    for _ in range(2):  # another labeller finds it early still
        with store.writing():
            assert set(store.early) == {tuple(r[column] for column in KEY) for r in rows(5, 6)}
    with store.writing():
        store.append(rows(3, 4), CPU)
        assert [pq.read_metadata(folder / name).num_rows for name in sealed(folder)] == [4]  # of 1 to 4
        store.settle(key)
        assert (store.early, len(loose(folder))) == ({}, 1)
        assert numbers(store) == [1, 2, 3, 4, 5, 6]


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), kill_after=st.integers(0, 6))
def test_the_order_in_which_batches_come_changes_nothing_even_if_killed(order, kill_after):
    batches = [rows(*range(3 * number, 3 * number + 3)) for number in range(6)]

    def work(folder: Path, order) -> None:
        """As the label stage does: what is there already is settled in its turn, the rest comes in ``order``."""
        store = LabelStore(folder, 7)
        with store.writing():
            there = store.keys()
            turn = 0

            def settle() -> None:
                nonlocal turn
                while turn < 6 and (key := tuple(batches[turn][0][column] for column in KEY)) in there:
                    if key in store.early:
                        store.settle(key)
                    turn += 1

            settle()
            for number in order:
                if tuple(batches[number][0][column] for column in KEY) in there:
                    continue
                store.append(batches[number], CPU, early=number != turn)
                there |= {tuple(r[column] for column in KEY) for r in batches[number]}
                settle()
            if len(order) == 6:
                store.seal()

    with tempfile.TemporaryDirectory() as root, mock.patch.object(os, "fsync"):
        work(Path(root, "whole"), range(6))
        work(Path(root, "killed"), order[: min(kill_after, 5)])
        assert numbers(LabelStore(Path(root, "killed"))) == sorted(
            number for place in order[: min(kill_after, 5)] for number in range(3 * place, 3 * place + 3)
        )
        work(Path(root, "killed"), order)
        assert contents(Path(root, "killed")) == contents(Path(root, "whole"))


def test_early_batches_whose_turn_never_comes_are_sealed_at_the_end(folder):
    store = LabelStore(folder, 4)
    with store.writing():
        store.append(rows(1, 2), CPU, early=True)
        store.append(rows(3), GPU, early=True)
        store.seal()
    assert (len(sealed(folder)), len(contents(folder)), numbers(store)) == (2, 2, [1, 2, 3])


# Kills

SEQUENCE = [
    (rows(1, 2), CPU), (rows(3, 4), CPU), (rows(5, 6), CPU), (rows(7), CPU), (rows(*range(8, 16)), CPU), (rows(16), CPU),
    (rows(17), GPU), (rows(18, 19, 20, 21), GPU), (rows(22), GPU), (rows(23), CPU),
]  # fmt: skip


def label(folder: Path, rows_per_part: int, sequence: list) -> None:
    """What the label stage does: append the batches that the store lacks. Counts those it has in ``<folder>.kept``."""
    store = LabelStore(folder, rows_per_part)
    with store.writing(), open(folder.with_suffix(".kept"), "wb", buffering=0) as kept:
        done = store.keys()
        for batch, provenance in sequence:
            store.append([r for r in batch if tuple(r[column] for column in KEY) not in done], provenance)
            kept.write(b".")
        store.seal()


class Killed(BaseException):
    """Not an Exception: the store must not take it for a failure that it can handle."""


def killed(step: int, *arguments) -> bool:
    """``label`` cut off before its ``step``-th change to the disk. False: it made fewer.

    As after a kill, nothing reaches the disk from there on, the clean-up on the way out included.
    """
    left = step

    def cut_off(change):
        def guarded(*details, **options):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return change(*details, **options)

        return guarded

    with contextlib.ExitStack() as patches:
        for name in ("replace", "unlink"):
            patches.enter_context(mock.patch.object(os, name, cut_off(getattr(os, name))))
        patches.enter_context(mock.patch.object(module, "open", cut_off(open), create=True))
        patches.enter_context(mock.patch.object(os, "fsync"))  # what the system holds a kill does not lose
        try:
            label(*arguments)
        except Killed:
            return True
    return False


@pytest.fixture(scope="module")
def killed_at_every_step(tmp_path_factory) -> list[Path]:
    """Stores of runs over SEQUENCE, each killed one step later than the one before, until one was not reached."""
    root = tmp_path_factory.mktemp("killed")
    folders = [root / "0"]
    while killed(len(folders) - 1, folders[-1], 5, SEQUENCE):
        folders.append(root / str(len(folders)))
    assert len(folders) > 50  # or else the steps are not seen
    return folders[:-1]


def test_a_kill_at_any_step_loses_no_batch_that_was_kept_and_doubles_none(killed_at_every_step):
    states = set()
    for folder in killed_at_every_step:
        kept = len(folder.with_suffix(".kept").read_bytes())
        found = numbers(LabelStore(folder))
        # the batch being appended may be there, but only whole
        wholes = [sum(len(batch) for batch, _ in SEQUENCE[:batches]) for batches in (kept, kept + 1)]
        assert found in [list(range(1, whole + 1)) for whole in wholes]
        on_disk = sum(pq.read_metadata(path).num_rows for path in folder.glob("[!.]*.parquet"))
        states |= {"twice on disk"} if on_disk > len(found) else set()
        states |= {"draft"} if list(folder.glob(".draft*")) else set()
    assert states == {"twice on disk", "draft"}


def test_a_run_killed_at_any_step_and_resumed_ends_as_if_never_killed(killed_at_every_step, tmp_path):
    with mock.patch.object(os, "fsync"):
        label(tmp_path / "whole", 5, SEQUENCE)
        expected = contents(tmp_path / "whole")
        for folder in killed_at_every_step:
            resumed = tmp_path / folder.name
            shutil.copytree(folder, resumed)
            label(resumed, 5, SEQUENCE)
            assert contents(resumed) == expected


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=10),
    rows_per_part=st.integers(1, 12),
    steps=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_batches_killed_any_number_of_times_end_as_if_never_killed(sizes, rows_per_part, steps):
    sequence, start = [], 0
    for number, size in enumerate(sizes):
        sequence.append((rows(*range(start, start + size)), GPU if number % 4 == 3 else CPU))
        start += size
    with tempfile.TemporaryDirectory() as root, mock.patch.object(os, "fsync"):
        whole, folder = Path(root, "whole"), Path(root, "killed")
        label(whole, rows_per_part, sequence)
        for step in steps:
            killed(step, folder, rows_per_part, sequence)
        label(folder, rows_per_part, sequence)
        assert contents(folder) == contents(whole)
        assert numbers(LabelStore(folder)) == list(range(start))


def test_loose_parts_that_were_sealed_before_a_kill_are_read_once_and_removed(folder):
    store = LabelStore(folder, 10)
    with store.writing():
        store.append(rows(1, 2), CPU)
        store.append(rows(3), CPU)
        merged = contents(folder)
        store.seal()
    for name, content in merged.items():
        (folder / name).write_bytes(content)
    reader = LabelStore(folder)
    assert (numbers(reader), len(reader.keys())) == ([1, 2, 3], 3)
    assert reader.provenances() == [{"readings": 3, **CPU}]
    with store.writing():
        assert loose(folder) == []
    assert numbers(store) == [1, 2, 3]


def test_of_a_reading_that_stands_twice_the_sealed_one_counts(folder):
    for number in range(20):  # for names are hashes: either may come first
        store = LabelStore(folder / str(number), 2)
        with store.writing():
            store.append(rows(1, number + 2), CPU)
            store.append([row(1) | {"nll_sum": 0.25}], GPU)
        assert store.read().set_index("question").loc["q0001", "nll_sum"] == 1.5
        assert store.provenances() == [{"readings": 2, **CPU}]


def test_drafts_of_a_killed_labeller_go_when_the_next_one_enters(filled):
    whole = contents(filled)
    for leftover in (".draft.parquet", ".draft-0123.loose.parquet", ".0123.parquet.partial-77"):
        (filled / leftover).write_bytes(b"half")
    assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5]
    assert len(contents(filled)) == 5
    with LabelStore(filled, 3).writing():
        assert contents(filled) == whole


# Power cuts


@pytest.fixture
def disk(monkeypatch) -> list[tuple[str, Path]]:
    """What was done to the disk, in order: ("sync" | "move" | "remove", path)."""
    done, sizes = [], {}
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def recorded_fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        done.append(("sync", path))
        sizes[path] = path.stat().st_size
        fsync(handle)

    def recorded_replace(source, target):
        assert sizes[Path(source)] == Path(source).stat().st_size  # synced whole
        done.append(("move", Path(target)))
        replace(source, target)

    def recorded_unlink(path, **options):
        unlink(path, **options)
        done.append(("remove", Path(path)))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    monkeypatch.setattr(os, "unlink", recorded_unlink)
    return done


on_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


def kinds(done: list[tuple[str, Path]], folder: Path) -> list[str]:
    return [f"{what} folder" if path == folder else what for what, path in done]


@on_linux
def test_a_part_is_on_the_disk_before_append_returns_and_before_those_it_replaces_go(folder, disk):
    store = LabelStore(folder, 2)
    kept = ["sync", "move", "sync folder"]
    with store.writing():
        disk.clear()
        store.append(rows(1), CPU)
        assert kinds(disk, folder) == kept
        disk.clear()
        store.append(rows(2), CPU)
        assert kinds(disk, folder) == [*kept, *kept, "remove", "remove"]


@on_linux
def test_what_a_killed_labeller_sealed_is_on_the_disk_before_its_loose_parts_go(folder, disk):
    store = LabelStore(folder, 2)
    with store.writing():
        store.append(rows(1), CPU)
        merged = contents(folder)
        store.append(rows(2), CPU)
    for name, content in merged.items():
        (folder / name).write_bytes(content)
    disk.clear()
    with store.writing():
        assert kinds(disk, folder) == ["sync folder", "remove"]


@on_linux
def test_new_folders_are_on_the_disk(tmp_path, disk):
    with LabelStore(tmp_path / "a" / "b" / "labels", 2).writing():
        assert {("sync", path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")} <= set(disk)


# Damage


def flip(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


def cut(part: Path) -> None:
    os.truncate(part, part.stat().st_size // 2)


def empty(part: Path) -> None:
    os.truncate(part, 0)


def unlinked(part: Path) -> None:
    part.unlink()
    part.symlink_to("nowhere")


damages = pytest.mark.parametrize("damage", [flip, cut, empty, unlinked])
of_either_kind = pytest.mark.parametrize(("kind", "held"), [(sealed, [1, 2, 3]), (loose, [4, 5])], ids=["sealed", "loose"])


@damages
@of_either_kind
def test_a_reader_refuses_a_damaged_part_and_leaves_it(filled, damage, kind, held):
    (name,) = kind(filled)
    damage(filled / name)
    listing = sorted(os.listdir(filled))
    reader = LabelStore(filled)
    for reading in (reader.read, reader.keys, reader.provenances):
        with pytest.raises(ArtefactError, match=rf"{filled}: damaged.* {name}\. Run `uae label`"):
            reading()
    assert sorted(os.listdir(filled)) == listing


def test_a_reader_names_all_damaged_parts(filled):
    for name in (*sealed(filled), *loose(filled)):
        flip(filled / name)
    with pytest.raises(ArtefactError) as caught:
        LabelStore(filled).read()
    assert all(name in str(caught.value) for name in (*sealed(filled), *loose(filled)))


@damages
@of_either_kind
def test_a_labeller_sets_a_damaged_part_aside_and_asks_again(filled, damage, kind, held, caplog):
    (name,) = kind(filled)
    damage(filled / name)
    store = LabelStore(filled, 3)
    with store.writing():
        assert store.damaged == [name]
        assert name in caplog.text
        assert numbers(store) == [number for number in range(1, 6) if number not in held]
        assert not (filled / name).exists()
        assert os.path.lexists(filled / f"{name}.damaged")
        store.append(rows(*held), CPU)
    assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5]
    with store.writing():
        assert store.damaged == []


def test_a_file_that_is_no_part_is_set_aside_like_a_damaged_one(filled):
    pq.write_table(pa.table({"a": [1]}), filled / "notes.parquet")
    store = LabelStore(filled, 3)
    with store.writing():
        assert store.damaged == ["notes.parquet"]
    assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5]


def test_a_part_that_is_damaged_while_a_labeller_works_is_not_merged(folder):
    store = LabelStore(folder, 3)
    with store.writing():
        store.append(rows(1), CPU)
        (name,) = loose(folder)
        store.append(rows(2), CPU)
        cut(folder / name)
        store.append(rows(3), CPU)
        assert store.damaged == [name]
        assert numbers(store) == [2, 3]
    assert (len(sealed(folder)), loose(folder)) == (1, [])


def test_a_part_that_is_set_aside_by_a_reading_labeller_is_no_longer_counted(folder):
    store = LabelStore(folder, 3)
    with store.writing():
        store.append(rows(1, 2), CPU)
        cut(folder / loose(folder)[0])
        assert numbers(store) == []
        store.append(rows(3), CPU)
        assert sealed(folder) == []
        store.append(rows(1, 2), CPU)
    assert (len(sealed(folder)), loose(folder)) == (1, [])
    assert numbers(store) == [1, 2, 3]


def test_a_sound_table_of_another_kind_is_named(filled):
    write_table(filled / "x", pa.schema([pa.field("a", pa.int64(), nullable=False)]), [{"a": 1}])
    part = filled / f"{sha256_file(filled / 'x')[:32]}.parquet"
    os.replace(filled / "x", part)
    with pytest.raises(ArtefactError, match=f"{part} has another schema"):
        LabelStore(filled).read()


def test_a_part_is_hashed_once_and_again_when_it_changes(filled, monkeypatch):
    hashed = []
    name_of = module.content_name
    monkeypatch.setattr(module, "content_name", lambda content: hashed.append(1) or name_of(content))
    reader = LabelStore(filled)
    for _ in range(2):
        reader.read()
        reader.keys()
    assert len(hashed) == 2
    cut(filled / loose(filled)[0])
    with pytest.raises(ArtefactError, match="damaged"):
        reader.read()


# More than one process


def test_a_second_labeller_is_refused_and_a_killed_one_leaves_no_lock(filled):
    code = f"""
import time
from uae.teacher.store import LabelStore
store = LabelStore({str(filled)!r}, 3)
with store.writing():
    store.append({rows(6)!r}, {CPU!r})
    print("ready", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(uae.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout.readline() == b"ready\n"
            before = contents(filled)
            with pytest.raises(ArtefactError, match="another labeller"), LabelStore(filled, 3).writing():
                pass
            assert contents(filled) == before
            assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5, 6]
        finally:
            first.kill()
    store = LabelStore(filled, 3)
    with store.writing():
        assert numbers(store) == [1, 2, 3, 4, 5, 6]


def test_one_folder_has_one_lock_by_whatever_link_it_is_reached(filled, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(filled)
    store = LabelStore(filled, 3)
    with store.writing():
        for other in (store, LabelStore(filled, 3), LabelStore(link, 3)):
            with pytest.raises(ArtefactError, match="another labeller"), other.writing():
                pass
        store.append(rows(6), CPU)  # the one refused took nothing from the one that holds it
    assert numbers(LabelStore(link)) == [1, 2, 3, 4, 5, 6]


def test_the_lock_goes_with_a_labeller_that_fails(filled):
    store = LabelStore(filled, 3)
    with pytest.raises(ZeroDivisionError), store.writing():
        _ = 1 / 0
    with store.writing():
        pass


def test_labellers_may_take_turns(folder):
    first, second = LabelStore(folder, 3), LabelStore(folder, 3)
    for number in range(6):
        store = (first, second)[number % 2]
        with store.writing():
            store.append(rows(number), CPU)
    assert (len(sealed(folder)), loose(folder)) == (2, [])
    assert numbers(first) == numbers(second) == list(range(6))


def test_a_reader_is_not_troubled_by_a_labeller_that_merges_parts(filled, monkeypatch):
    labeller, read_bytes = LabelStore(filled, 3), Path.read_bytes

    def late(path):
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        with labeller.writing():
            labeller.append(rows(6), CPU)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5, 6]
    assert loose(filled) == []


# A full disk


def test_a_full_disk_leaves_the_store_as_it_was(filled, files_of_at_most):
    before = contents(filled)
    store = LabelStore(filled, 10)
    with store.writing():
        with files_of_at_most(500), pytest.raises(ArtefactError, match=f"cannot write {filled}.*Free some space"):
            store.append(rows(6), CPU)
        assert contents(filled) == before
        store.append(rows(6), CPU)
    assert numbers(LabelStore(filled)) == [1, 2, 3, 4, 5, 6]


def test_a_disk_too_full_to_merge_keeps_every_batch(folder, files_of_at_most):
    """The append's own batch too: it was on the disk before the merge began."""
    store = LabelStore(folder, 1000)
    with store.writing():
        store.append(rows(*range(500)), CPU)
        size = max(path.stat().st_size for path in folder.iterdir())
        with files_of_at_most(size + 100), pytest.raises(ArtefactError, match="Free some space"):
            store.append(rows(*range(500, 1000)), CPU)
        assert (sealed(folder), len(loose(folder))) == ([], 2)
        assert numbers(store) == list(range(1000))
    with store.writing():
        assert (len(sealed(folder)), loose(folder)) == (1, [])
    assert numbers(store) == list(range(1000))


# Formats


def test_parts_of_an_older_format_get_what_later_columns_were_then(filled, monkeypatch):
    """The store of this version, read by one whose LABELS has a column more."""
    before = numbers(LabelStore(filled))
    gain_a_column(monkeypatch)
    store = LabelStore(filled, 3)
    assert numbers(store) == before
    assert set(store.read()["language"]) == {"unknown"}
    with store.writing():
        store.append([row(6) | {"language": "en"}], CPU)
    table = LabelStore(filled).read()
    assert table.set_index("question")["language"].value_counts().to_dict() == {"unknown": 5, "en": 1}
    assert loose(filled) == []  # the two old loose readings and the new one were sealed together
    assert sorted(map(format_of, filled.glob("*.parquet"))) == [b"2", b"3"]


def test_a_part_of_a_newer_format_says_what_to_do(filled, monkeypatch):
    with monkeypatch.context() as later:
        gain_a_column(later)
        store = LabelStore(filled, 9)
        with store.writing():
            store.append([row(7) | {"language": "en"}], GPU)
    with pytest.raises(ArtefactError, match=r"is of format 3 and was written by a newer version of uae.*up to format 2"):
        LabelStore(filled).read()


def gain_a_column(monkeypatch) -> None:
    field = pa.field("language", pa.string(), nullable=False)
    monkeypatch.setattr(formats, "LABELS", LABELS.append(field))
    monkeypatch.setattr(formats, "LABELS_SINCE", {"language": (3, "unknown")})
    monkeypatch.setattr(formats, "LABELS_FORMAT", 3)


def format_of(part: Path) -> bytes:
    return pq.read_metadata(part).metadata.get(b"uae.format", b"1")
