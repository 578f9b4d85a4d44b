"""Reading source files with errors that name the file, the line and what to do."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uae.io.errors import InputError


def read_text(path: Path) -> str:
    """Read UTF-8 text (a byte order mark is dropped, line ends become \\n).

    Raises:
        InputError: missing, a folder, not readable, or not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except NotADirectoryError:
        raise InputError(f"{Path(path).parent} is a file; a folder was expected") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a file was expected") from None
    except OSError as error:  # no permission, or a link that leads to itself
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte {error.start} ({data[error.start]:#04x}) is not UTF-8; convert the file, "
            f"for example with: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    return _parse(read_text(path), lambda line: f"{path}, line {line}", str(path))


def _parse(text: str, place: Callable[[int], str], where: str) -> Any:
    """The value of JSON ``text``; ``place`` names a line of it, ``where`` all of it."""
    try:
        value = json.loads(text)
        _refuse_half_characters(text, value, where)
    except json.JSONDecodeError as error:
        raise InputError(f"{place(error.lineno)}, column {error.colno}: broken JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{where}: lists or objects are nested too deep to be read") from None
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


def read_jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield (where, row) for each line that is not blank; ``where`` names file and line."""
    # split("\n"), not splitlines(): JSON strings may hold other Unicode line separators
    for number, line in enumerate(read_text(path).split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        row = _parse(line, lambda _, where=where: where, where)
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
        yield where, row


def want(row: dict, name: str, kind: type, where: str) -> Any:
    """The field ``name`` of ``row``, which must be there and of type ``kind`` (strings must not be blank)."""
    if name not in _an_object(row, name, where):
        raise InputError(f"{where}: the field {name!r} is missing")
    value = _typed(row[name], name, kind, where)
    if kind is str and not value.strip():
        raise InputError(f"{where}: the field {name!r} is empty")
    return value


def optional(row: dict, name: str, kind: type, where: str) -> Any:
    """The field ``name`` of ``row``, of type ``kind``; an empty one where the field is absent or null."""
    value = _an_object(row, name, where).get(name)
    return kind() if value is None else _typed(value, name, kind, where)


def optional_strings(row: dict, name: str, where: str) -> list[str]:
    """The list of strings ``name`` of ``row``; an empty one where the field is absent or null."""
    values = optional(row, name, list, where)
    if any(not isinstance(value, str) for value in values):
        raise InputError(f"{where}: {name!r} must be a list of strings")
    return values


def refuse_unknown(row: dict, fields: set[str], where: str) -> None:
    """Raise an InputError for a field that is not one of ``fields``: it is misspelt, or would be dropped without a word."""
    for name in sorted(set(row) - fields):
        raise InputError(f"{where}: unknown field {name!r}; the fields are {', '.join(sorted(fields))}")


def _an_object(row: Any, name: str, where: str) -> dict:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object with {name!r}, found {type(row).__name__}")
    return row


def _typed(value: Any, name: str, kind: type, where: str) -> Any:
    # Python takes true for 1.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where}: the field {name!r} must be {kind.__name__}, not {type(value).__name__}")
    return value


def find_quote(text: str, quote: str, near: int | None = None) -> tuple[int, int] | None:
    """Offsets of ``quote`` in ``text``, white space aside; of several places the one nearest to ``near`` (or the first)."""
    words = quote.split()
    if not words:
        return None
    pattern = r"\s+".join(re.escape(word) for word in words)
    places = [match.span() for match in re.finditer(pattern, text)]
    if not places:
        return None
    return min(places, key=lambda span: abs(span[0] - near)) if near is not None else places[0]
