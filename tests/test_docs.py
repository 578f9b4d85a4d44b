"""What the docs name is there: files, links, commands and parameters."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from uae.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
_PATH = re.compile(r"(?<![\w/.-])((?:uae|docs|benchmarks|tests|deploy|dagster_project|data/sample)/[\w./-]*[\w/])")
_PARAMETER = re.compile(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?=[`:=])")
_FILE = re.compile(r"\.(?:py|json|jsonl|yaml|csv|html|parquet|faiss)$")
_COUNTS = {f"label.{name}" for name in re.findall(r'^ +"(\w+)":', (ROOT / "uae/teacher/label.py").read_text("utf-8"), re.M)}
_INVENTED = {"train.objectives.hinge"}  # a parameter that the reader adds in an example
_COMMAND = re.compile(r"(?:`|\.venv/bin/|^)uae ([a-z]+)\b", re.M)
_IMAGES = {"deploy/uae-follow"}  # a name that the reader gives to a container


@each_doc
def test_every_file_that_is_named_is_there(doc):
    assert [
        path for path in _PATH.findall(doc.read_text(encoding="utf-8")) if path not in _IMAGES and not (ROOT / path).exists()
    ] == []


@each_doc
def test_every_link_leads_somewhere(doc):
    assert dead_links(doc) == []


def test_a_link_to_no_file_or_no_heading_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# Its `Name`, here\n```\n# no heading\n```\n# Its name here\n", encoding="utf-8")
    links = ("#here", "other.md#its-name-here", "other.md#its-name-here-1", "https://a.b/c#d")
    dead = ("#there", "other.md#no-heading", "none.md", "other.md#its-name-here-2")
    (tmp_path / "doc.md").write_text("# Here\n\n" + "".join(f"[x]({link})\n" for link in links + dead), encoding="utf-8")
    assert dead_links(tmp_path / "doc.md") == list(dead)


def dead_links(doc: Path) -> list[str]:
    """The links of a Markdown file to files that are not there, and to headings that a file does not have."""
    dead = []
    for block in MarkdownIt().parse(doc.read_text(encoding="utf-8")):
        for each in block.children or ():
            link = str(each.attrs.get("href") or each.attrs.get("src") or "")
            name, _, heading = link.partition("#")
            path = doc.parent / name if name else doc
            if link and "://" not in link and not (path.exists() and (not heading or heading in _anchors(path))):
                dead.append(link)
    return dead


def _anchors(doc: Path) -> set[str]:
    """The addresses that GitHub gives to a file's headings."""
    blocks = MarkdownIt().parse(doc.read_text(encoding="utf-8"))
    titles = [text.content for opened, text in pairwise(blocks) if opened.type == "heading_open"]
    names = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {f"{name}-{before}" if (before := names[:n].count(name)) else name for n, name in enumerate(names)}


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


@each_doc
def test_every_parameter_that_is_named_exists(doc):
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    unknown = unknown_parameters(doc.read_text(encoding="utf-8"), values)
    assert [name for name in unknown if name not in _COUNTS] == []  # what the label stage prints


def test_a_parameter_that_does_not_exist_is_found():
    text = "`train.epochs: 2`, `train.epoch`, `index.kind=Flat`, `train.py`, `os.path`, `train.objectives.hinge`"
    assert unknown_parameters(text, {"train": {"epochs": 2}, "index": {}}) == ["train.epoch", "index.kind"]


def unknown_parameters(text: str, values: dict) -> list[str]:
    """What a text names like a parameter, ``section.key`` of a section that there is, and params.yaml does not have."""
    named = [name for name in _PARAMETER.findall(text) if name.split(".")[0] in values and not _FILE.search(name)]
    return [name for name in named if name not in _INVENTED and not _is_there(values, name)]


def _is_there(values: dict, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True
