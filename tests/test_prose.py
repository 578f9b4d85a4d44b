"""Whoever is new here reads short sentences: at most 30 words each in docs, docstrings, comments and help texts."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_WORDS = 30
READMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/sample/README.md", "models/README.md")
FILES = [
    *(ROOT / name for name in READMES),
    *sorted((ROOT / "docs").glob("*.md")),
    *(
        path
        for room in ("uae", "deploy", "dagster_project", "benchmarks", "tests")
        for path in sorted((ROOT / room).rglob("*.py"))
    ),
    *(ROOT / name for name in ("params.yaml", "dvc.yaml", "Makefile", "pyproject.toml")),
    *(path for glob in ("*.yaml", "*.conf", "*Dockerfile") for path in sorted((ROOT / "deploy").rglob(glob))),
]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*(])")
_FENCE = re.compile(r"^ *```.*?^ *``` *$", re.M | re.S)
_LIST_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_SET_OFF = re.compile(r"^  |^python |\S {3,}\S")  # a command, or a row of a table; in a list it is a sentence that goes on
_FIELDS = re.compile(r"(?:Args|Raises|Returns|Yields|Attributes):\s*$")  # of a docstring
_COMMENT = re.compile(r"(?:^|\s)# ?(.*)$")


def too_long(paragraphs: Iterable[str]) -> list[str]:
    """The sentences of more than ``MOST_WORDS`` words. A word is what stands between blanks."""
    sentences = (sentence.split() for paragraph in paragraphs for sentence in _SENTENCE_END.split(paragraph))
    return [" ".join(words) for words in sentences if len(words) > MOST_WORDS]


def prose(path: Path, text: str) -> Iterator[str]:
    """The paragraphs that a file holds for people."""
    if path.suffix == ".md":
        return in_markdown(text)
    return in_python(text) if path.suffix == ".py" else in_config(text)


def in_markdown(text: str) -> Iterator[str]:
    """Paragraphs, headings and list items. Code blocks and tables are no prose."""
    lines = _FENCE.sub("", text).splitlines()
    return paragraphs("" if line.lstrip().startswith(("|", "#")) else line.removeprefix("> ") for line in lines)


def in_python(text: str) -> Iterator[str]:
    """Docstrings, also of attributes; comments; and what options and fields say to a user."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from paragraphs(_entries(inspect.cleandoc(node.value.value)))
        elif isinstance(node, ast.keyword) and node.arg in {"help", "description", "summary"}:
            yield from (str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant))
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT]
    yield from _blocks((token.start[0], not token.line[: token.start[1]].strip(), token.string[2:]) for token in tokens)


def in_config(text: str) -> Iterator[str]:
    """The comments of a file in which ``#`` begins one."""
    found = ((number, _COMMENT.search(line), line) for number, line in enumerate(text.splitlines()))
    return _blocks((number, line.lstrip().startswith("#"), match[1]) for number, match, line in found if match)


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Lines joined up to the next blank one or the next item of a list, without commands and tables."""
    held: list[str] = []
    in_list = False
    for line in [*lines, ""]:
        item = _LIST_ITEM.match(line)
        in_list = bool(item) or (in_list and line.startswith(" "))
        set_off = bool(_SET_OFF.search(line)) and not in_list
        if held and (item or set_off or not line.strip()):
            yield " ".join(held)
            held = []
        if line.strip() and not set_off:
            held.append(line[item.end() :] if item else line)


def _entries(docstring: str) -> Iterator[str]:
    """The lines of a docstring. Each entry under ``Args:`` and its like is parted from the one before."""
    inside = False
    for line in docstring.splitlines():
        if _FIELDS.match(line):
            inside = True
        elif inside and re.match(r" {4}\S", line):
            yield from ("", line.strip())
        else:
            inside = inside and (not line or line[0] == " ")
            yield line.strip() if inside else line


def _blocks(comments: Iterable[tuple[int, bool, str]]) -> Iterator[str]:
    """Comments as (line, has the line for itself, text). Those on consecutive lines of their own are one text."""
    held: list[str] = []
    before = (-2, False)
    for number, alone, text in comments:
        if held and not (alone and before == (number - 1, True)):
            yield from paragraphs(held)
            held = []
        held.append(text)
        before = (number, alone)
    yield from paragraphs(held)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_is_too_long(path):
    assert too_long(prose(path, path.read_text(encoding="utf-8"))) == []


WORDS = " ".join(["word"] * MOST_WORDS)
LONG = f"Planted {WORDS}."
SHORT = f"{WORDS.capitalize()}."


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("doc.md", "# Title\n\n- one\n- {}\n"),
        ("doc.md", "Before it. {} After it.\n"),
        ("code.py", '"""{}"""\n'),
        ("code.py", 'def f():\n    """Short.\n\n    Args:\n        first: one.\n        second: two. {}\n    """\n'),
        ("code.py", 'class A:\n    x: int\n    """{}"""\n'),
        ("code.py", "x = 1  # {}\n"),
        ("code.py", "option(help='{}')\n"),
        ("params.yaml", "key: a#b  # {}\n"),
    ],
)
def test_a_long_sentence_is_found_wherever_it_stands(name, template):
    assert too_long(prose(Path(name), template.format(LONG))) == [LONG]
    assert too_long(prose(Path(name), template.format(SHORT))) == []


@pytest.mark.parametrize("name", ["code.py", "params.yaml"])
def test_comment_lines_that_follow_each_other_are_one_text(name):
    half = " ".join(["word"] * (MOST_WORDS // 2 + 1))
    assert len(too_long(prose(Path(name), f"# {half}\n# {half}\n"))) == 1
    assert too_long(prose(Path(name), f"# {half}\n\n# {half}\n")) == []


@pytest.mark.parametrize(
    "apart", ["```\n{0} {0}\n```\n", "| {0} | {0} |\n", "{0}\n\n{0}\n", "- {0}\n- {0}\n", "{0}.\n{0}.\n", "## {0}\n{0}\n"]
)
def test_code_tables_and_paragraphs_apart_are_no_sentence(apart):
    assert too_long(in_markdown(apart.format(WORDS.capitalize()))) == []
