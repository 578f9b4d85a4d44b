"""JSON and JSONL of sources, with errors that name the file, the line and what to do."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from uae.corpus.decoding import read_lines, read_text
from uae.io.errors import InputError

T = TypeVar("T")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    return _parse(read_text(path), str(path), lines=True)


def _parse(text: str, path: str, lines: bool = False) -> Any:
    """The value of JSON ``text``, which stands at ``path``. With ``lines`` errors name the line in it, too."""

    def place(line: int) -> str:
        return f"{path}, line {line}" if lines else path

    try:
        value = json.loads(text)
        _refuse_half_characters(text, value, path)
    except json.JSONDecodeError as error:
        raise InputError(f"{place(error.lineno)}, column {error.colno}: broken JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{path}: lists or objects are nested too deep to be read") from None
    except ValueError:  # Python refuses to convert it
        digits = sys.get_int_max_str_digits()
        long = re.search(rf"\d{{{digits + 1},}}", text)
        line = text.count("\n", 0, long.start() if long else 0) + 1
        raise InputError(f"{place(line)}: a number has more than {digits} digits; write it as a string") from None
    return value


def _refuse_half_characters(source: str, value: Any, where: str) -> None:
    """JSON can escape half of a surrogate pair, which can be neither hashed nor written as UTF-8."""
    if re.search(r"\\u[dD][89a-fA-F]", source):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            near = error.object[max(0, error.start - 30) : error.start]
            raise InputError(f"{where}: half a character (an unpaired surrogate) stands after {near!r}") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for each line that is not blank; ``where`` names file and line."""
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        row = _parse(line, where)
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield where, row


def want(row: Any, name: str, kind: type[T], where: str, blank: bool = False) -> T:
    """The field ``name`` of ``row``, which must be there and of type ``kind``.

    Args:
        blank: a string may hold white space only, or nothing.
    """
    if name not in _an_object(row, name, where):
        raise InputError(f"{where}: the field {name!r} is missing")
    value = _typed(row[name], name, kind, where)
    if isinstance(value, str) and not blank and not value.strip():
        raise InputError(f"{where}: the field {name!r} is empty")
    return value


def optional(row: Any, name: str, kind: type[T], where: str) -> T:
    """The field ``name`` of ``row``, of type ``kind``; an empty one where the field is absent or null."""
    value = _an_object(row, name, where).get(name)
    return kind() if value is None else _typed(value, name, kind, where)


def optional_strings(row: Any, name: str, where: str) -> list[str]:
    """The list of strings ``name`` of ``row``; an empty one where the field is absent or null."""
    values: list[Any] = optional(row, name, list, where)
    if any(not isinstance(value, str) for value in values):
        raise InputError(f"{where}: {name!r} must be a list of strings")
    return values


def refuse_unknown(row: dict[str, Any], fields: set[str], where: str) -> None:
    """Raise an InputError for a field that is not one of ``fields``: it is misspelt, or would be dropped without a word."""
    for name in sorted(set(row) - fields):
        raise InputError(f"{where}: unknown field {name!r}; the fields are {', '.join(sorted(fields))}")


def _an_object(row: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object with {name!r}, found {type(row).__name__}")
    return row


def _typed(value: Any, name: str, kind: type[T], where: str) -> T:
    # Python takes true for 1.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: the field {name!r} must be {kind.__name__}, not {type(value).__name__}")
    return value


def find_quotes(text: str, quote: str) -> list[tuple[int, int]]:
    """Offsets of each place of ``quote`` in ``text``, white space aside; none for a blank quote."""
    words = quote.split()
    if not words:
        return []
    return [match.span() for match in re.finditer(r"\s+".join(map(re.escape, words)), text)]


def find_quote(text: str, quote: str, near: int | None = None) -> tuple[int, int] | None:
    """As ``find_quotes``: of several places the one nearest to ``near`` (or the first), None where there is none."""
    places = find_quotes(text, quote)
    if not places:
        return None
    return min(places, key=lambda span: abs(span[0] - near)) if near is not None else places[0]
