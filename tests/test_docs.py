"""What the docs name is there: files, links, commands and parameters."""

import re
from pathlib import Path

import pytest
import yaml

from uae.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
_PATH = re.compile(r"(?<![\w/.-])((?:uae|docs|benchmarks|tests|deploy|dagster_project|data/sample)/[\w./-]*[\w/])")
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
_COMMAND = re.compile(r"(?:`|\.venv/bin/|^)uae ([a-z]+)\b", re.M)
_IMAGES = {"deploy/uae-follow"}  # a name that the reader gives to a container


@each_doc
def test_every_file_that_is_named_is_there(doc):
    assert [
        path for path in _PATH.findall(doc.read_text(encoding="utf-8")) if path not in _IMAGES and not (ROOT / path).exists()
    ] == []


@each_doc
def test_every_link_leads_somewhere(doc):
    assert [link for link in _LINK.findall(doc.read_text(encoding="utf-8")) if not (doc.parent / link).exists()] == []


@each_doc
def test_every_command_is_one_of_uae(doc):
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert [name for name in _COMMAND.findall(doc.read_text(encoding="utf-8")) if name not in known] == []


@each_doc
def test_every_parameter_that_is_set_exists(doc):
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    named = re.findall(r"--set '?([a-z_]+(?:\.[a-z_]+)+)=", doc.read_text(encoding="utf-8"))
    assert [key for key in named if not _is_there(values, key)] == []


def _is_there(values: dict, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True
