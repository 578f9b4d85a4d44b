import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import uae
from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, sha256_bytes, sha256_tree, write_json, write_text
from uae.retrievers.dense import load_encoder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)


def fail_halfway(path, write=lambda partial: None, error=None):
    with atomic_path(path) as partial:
        write(partial)
        raise error or ValueError("stop")


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def killed():
    """Run Python code up to its ``pause()``, kill it there with SIGKILL, and return its process id."""

    def run(code, folder):
        preamble = "import time\ndef pause():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        environment = os.environ | {"PYTHONPATH": str(Path(uae.__file__).parents[1])}
        process = subprocess.Popen(
            [sys.executable, "-c", preamble + textwrap.dedent(code)], cwd=folder, env=environment, stdout=subprocess.PIPE
        )
        with process:
            try:
                assert process.stdout.readline() == b"ready\n"
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL
        return process.pid

    return run


def test_a_file_is_replaced_and_its_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    for text in ("old", "new"):
        write_text(path, text)
        assert path.read_text() == text
    assert names(path.parent) == ["x.txt"]


def test_nothing_shows_at_the_path_before_all_is_written(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == path.parent  # a rename is atomic within one file system only
        assert partial.name.startswith(".")
    assert path.read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "model"
    for files in ({"a": "1", "b": "2"}, {"b": "3"}):
        with atomic_path(path) as partial:
            write_folder(partial, **files)
        assert {file.name: file.read_text() for file in path.iterdir()} == files
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_file_stays_when_its_writer_raises(tmp_path, error):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(error):
        fail_halfway(path, lambda partial: partial.write_text("ne"), error())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_folder_stays_when_its_writer_raises(tmp_path):
    path = tmp_path / "model"
    write_folder(path, a="old")
    with pytest.raises(ValueError, match="stop"):
        fail_halfway(path, lambda partial: write_folder(partial, a="ne"))
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_file_stays_when_its_writer_is_killed(tmp_path, killed):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    code = """
        from uae.io.files import atomic_path
        with atomic_path("x.txt") as partial, open(partial, "w") as stream:
            stream.write("ne")
            stream.flush()
            pause()
    """
    pid = killed(code, tmp_path)
    assert path.read_text() == "old"
    assert names(tmp_path) == [f".x.txt.partial-{pid}", "x.txt"]

    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x.txt"]


def test_a_folder_stays_when_its_writer_is_killed(tmp_path, killed):
    path = tmp_path / "model"
    write_folder(path, a="old")
    code = """
        from uae.io.files import atomic_path
        with atomic_path("model") as partial:
            partial.mkdir()
            (partial / "a").write_text("ne")
            pause()
    """
    killed(code, tmp_path)
    assert (path / "a").read_text() == "old"

    with atomic_path(path) as partial:
        write_folder(partial, b="new")
    assert names(path) == ["b"]
    assert names(tmp_path) == ["model"]


KILLED_BETWEEN_RENAMES = """
    import os
    from uae.io.files import atomic_path
    replace = os.replace
    def replace_and_pause(*paths):
        replace(*paths)
        pause()
    os.replace = replace_and_pause
    with atomic_path("model") as partial:
        partial.mkdir()
        (partial / "a").write_text("new")
"""


def test_a_folder_killed_between_its_two_renames_comes_back_when_the_next_write_fails(tmp_path, killed):
    path = tmp_path / "model"
    write_folder(path, a="old")
    killed(KILLED_BETWEEN_RENAMES, tmp_path)
    assert not path.exists()

    with pytest.raises(ValueError, match="stop"):
        fail_halfway(path)

    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_killed_between_its_two_renames_is_replaced_by_the_next_write(tmp_path, killed):
    path = tmp_path / "model"
    write_folder(path, a="old")
    killed(KILLED_BETWEEN_RENAMES, tmp_path)

    with atomic_path(path) as partial:
        write_folder(partial, a="newer")

    assert (path / "a").read_text() == "newer"
    assert names(tmp_path) == ["model"]


def test_a_folder_killed_after_its_two_renames_stays_new(tmp_path, dead_pid):
    path = tmp_path / "model"
    write_folder(path, a="new")
    write_folder(tmp_path / f".model.partial-{dead_pid}-old", a="old")

    with pytest.raises(ValueError, match="stop"):
        fail_halfway(path)

    assert (path / "a").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_what_another_living_process_writes_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        other = tmp_path / f".x.txt.partial-{living.pid}"
        other.write_text("half")
        write_text(tmp_path / "x.txt", "mine")
        living.stdin.close()
    assert other.read_text() == "half"


def test_leftovers_of_other_paths_are_left_alone(tmp_path, dead_pid):
    other = tmp_path / f".y.txt.partial-{dead_pid}"
    other.write_text("half")
    write_text(tmp_path / "x.txt", "mine")
    assert other.exists()


@pytest.mark.parametrize("suffix", ["", "-old"])
def test_leftovers_of_a_dead_process_with_our_number_do_not_mix_in(tmp_path, suffix):
    """In a container process numbers repeat: the killed run and the one that follows it are often both number 1."""
    write_folder(tmp_path / f".model.partial-{os.getpid()}{suffix}", stale="half")
    with atomic_path(tmp_path / "model") as partial:
        write_folder(partial, a="new")
    assert names(tmp_path / "model") == ["a"]
    assert names(tmp_path) == ["model"]


def test_a_folder_set_aside_by_a_dead_process_with_our_number_comes_back(tmp_path):
    write_folder(tmp_path / f".model.partial-{os.getpid()}-old", a="old")
    with pytest.raises(ValueError, match="stop"):
        fail_halfway(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_moved_in(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_folder(path, a="old")
    replace = os.replace

    def failing(source, target):
        if Path(target) == path and not str(source).endswith("-old"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), atomic_path(path) as partial:
        write_folder(partial, a="new")
    assert (path / "a").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_disk_that_takes_nothing_is_named_with_what_to_do(tmp_path, code):
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(ArtefactError) as caught:
        fail_halfway(tmp_path / "x.txt", lambda partial: partial.write_text("ne"), OSError(code, os.strerror(code)))
    assert f"cannot write {tmp_path / 'x.txt'}: {os.strerror(code)}" in str(caught.value)
    assert "Free some space or fix the permissions" in str(caught.value)
    assert (tmp_path / "x.txt").read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("said", ["write error in model: 4051 != 3200000 ({})", "I/O error: {} (os error 28)"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_that_a_library_tells_of_in_its_own_way_is_named(tmp_path, code, said):
    with pytest.raises(ArtefactError, match=f"cannot write .*x.txt: {os.strerror(code)}.*Free some space"):
        fail_halfway(tmp_path / "x.txt", error=RuntimeError(said.format(os.strerror(code))))
    with pytest.raises(RuntimeError, match="Permission denied"):  # who knows for what
        fail_halfway(tmp_path / "x.txt", error=RuntimeError("Permission denied"))
    assert names(tmp_path) == []


def test_a_model_on_a_full_disk_is_named(tmp_path, tiny_encoder, files_of_at_most):
    student = load_encoder(tiny_encoder, "cpu")
    with files_of_at_most(5000), pytest.raises(ArtefactError, match=r"cannot write .*student: File too large.*Free some space"):
        fail_halfway(tmp_path / "student", lambda partial: student.save(str(partial), create_model_card=False))
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "file/x.txt", "file/deeper/x.txt", "folder"])
def test_a_file_where_a_folder_is_needed_is_named_with_what_to_do(tmp_path, place):
    (tmp_path / "file").write_text("here")
    write_folder(tmp_path / "folder", a="here")
    with (
        pytest.raises(ArtefactError, match=f"cannot write .*{place}: .*name another place"),
        atomic_path(tmp_path / place) as partial,
    ):
        partial.write_text("new") if place == "folder" else partial.mkdir()
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "here"


def test_a_name_too_long_or_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for place in ("x" * 300, "a"):
        with pytest.raises(ArtefactError, match=r"cannot write .*[nN]ame a.* place"):
            write_text(tmp_path / place / "x.txt", "new")


@pytest.mark.parametrize("before", [True, False], ids=["replaced", "new"])
def test_two_processes_that_replace_one_folder_are_told_so(tmp_path, monkeypatch, before):
    path = tmp_path / "model"
    if before:
        write_folder(path, a="old")
    replace = os.replace

    def overtaken(source, target):
        if Path(source).name == f".model.partial-{os.getpid()}" and not path.exists():
            write_folder(path, a="theirs")
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    with pytest.raises(ArtefactError, match="model: another process writes there"), atomic_path(path) as partial:
        write_folder(partial, a="ours")
    assert (path / "a").read_text() == "theirs"

    monkeypatch.undo()
    with atomic_path(path) as partial:
        write_folder(partial, a="ours")
    assert names(tmp_path) == ["model"]


def test_other_errors_are_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.txt"):
        (tmp_path / "nothing").read_text()


def test_json_comes_back_and_says_what_to_do_where_it_cannot(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(ArtefactError, match=r"report\.json does not exist: run the stage that makes it first"):
        read_json(path)
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}
    for broken in ('{"a": ', '{"a":' * 100_000):
        path.write_text(broken)
        with pytest.raises(ArtefactError, match=r"report\.json is not readable JSON .* run its stage again"):
            read_json(path)
    with pytest.raises(ArtefactError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ArtefactError, match=r"pipe\.json is no file"):
        read_json(tmp_path / "pipe.json")


def test_json_without_a_meaning_elsewhere_is_refused_and_leaves_the_old(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_a_hash_of_parts_depends_on_their_borders():
    found = {sha256_bytes(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ()]}
    assert len(found) == 6
    assert sha256_bytes("é", b"x") == sha256_bytes("é".encode(), "x")


def test_a_hash_of_a_folder_depends_on_names_and_contents_but_not_on_caches(tmp_path):
    def tree(name, **files):
        write_folder(tmp_path / name, **files)
        return sha256_tree(tmp_path / name)

    same = tree("one", a="1", b="2")
    assert same == tree("two", b="2", a="1")
    assert len({same, tree("three", a="2", b="1"), tree("four", a="1"), tree("five", a="1", c="2")}) == 4
    write_folder(tmp_path / "one" / "__pycache__", x="9")
    (tmp_path / "one" / ".hidden").write_text("9")
    assert sha256_tree(tmp_path / "one") == same
    with pytest.raises(ArtefactError, match="nowhere does not exist"):
        sha256_tree(tmp_path / "nowhere")


def test_what_another_process_has_put_back_is_no_error(tmp_path, monkeypatch, dead_pid):
    """Two writers find the same leftover of a killed third one; one of them is second."""
    aside = tmp_path / f".folder.partial-{dead_pid}-old"
    write_folder(aside, a="old")
    replace = os.replace

    def slower(source, target):
        if Path(source) == aside:
            replace(source, target)  # the other writer
        replace(source, target)

    monkeypatch.setattr(os, "replace", slower)
    with atomic_path(tmp_path / "folder") as partial:
        write_folder(partial, a="new")
    assert (tmp_path / "folder" / "a").read_text() == "new"
    assert names(tmp_path) == ["folder"]
