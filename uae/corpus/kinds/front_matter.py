"""Front matter: what static-site tools keep in front of a page. It gives the title and is no text of the page.

Jekyll, Hugo, Eleventy, Docusaurus and others write YAML between ``---`` lines, TOML between ``+++`` lines or a JSON object. Blank
lines and HTML comments (a licence, say) may stand before it.
"""

import json
import re
import tomllib
from typing import Any

import yaml

_LEAD = re.compile(r"\s*(?:<!--.*?-->\s*)*", re.DOTALL)
_YAML = re.compile(r"---(?:yaml)?[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_TOML = re.compile(r"(?:\+\+\+|---toml)[ \t]*\n(.*?)^(?:\+\+\+|---)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_JSON_END = re.compile(r"[ \t]*(?:\n|\Z)")
_KEY = re.compile(r"[\w@$.:/-]+")  # a word: a key of several words is more likely a sentence between two rules

# Many pages hold front matter that is not valid YAML, such as "title: The light: a guide". Its lines look like this.
_KEY_LINE = r"\w[\w-]*[ \t]*:.*\n"
_LIKE_YAML = re.compile(rf"{_KEY_LINE}(?:{_KEY_LINE}|[ \t#-].*\n|\n)*")
_TITLE_LINE = re.compile(r"""^title[ \t]*:[ \t]*(["']?)(\w.*?)\1[ \t]*$""", re.MULTILINE)


def split_front_matter(text: str) -> tuple[str, str]:
    """(title, the page without its front matter); the title is "" where front matter names none or there is none."""
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    if found := _YAML.match(text, start):
        title = _yaml_title(found[1])
    elif found := _TOML.match(text, start):
        title = _toml_title(found[1])
    else:
        title, end = _json_title(text, start)
        return (title, text[end:]) if title is not None else ("", text)
    return (title, text[found.end() :]) if title is not None else ("", text)


def _yaml_title(block: str) -> str | None:
    """None where ``block`` is no front matter, but text between two rules."""
    try:
        values = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # PyYAML's converters raise the latter
        if not _LIKE_YAML.fullmatch(block):
            return None
        found = _TITLE_LINE.search(block)
        return found[2] if found else ""
    if values is None:  # nothing, or what YAML takes for a comment and Markdown for a heading
        return None if block.strip() else ""
    if not isinstance(values, dict) or not all(isinstance(key, str) and _KEY.fullmatch(key) for key in values):
        return None
    return _title(values)


def _toml_title(block: str) -> str | None:
    try:
        return _title(tomllib.loads(block))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def _json_title(text: str, start: int) -> tuple[str | None, int]:
    if not text.startswith("{", start):
        return None, start
    try:
        values, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    line_end = _JSON_END.match(text, end)
    if not line_end or not text[line_end.end() :].strip():  # a page of JSON and nothing else
        return None, start
    return _title(values), line_end.end()


def _title(values: dict[str, Any]) -> str:
    title = values.get("title")
    if title is None or isinstance(title, bool | list | dict):
        return ""
    try:
        text = " ".join(str(title).split())
    except ValueError:  # a number of so many digits that Python does not write it
        return ""
    # As in JSON, YAML's escapes may give a character in two halves; PyYAML does not put them together.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
