"""A folder of Markdown, text and HTML files with a questions.jsonl beside them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from uae.corpus.adapters.questions_file import read_questions
from uae.corpus.decoding import read_text
from uae.corpus.kinds import KINDS
from uae.corpus.records import LeftOut, RawDocument, Source
from uae.io.errors import InputError

_QUESTIONS = "questions.jsonl"
_SHOWN = 20  # faults in one message


def read(path: str) -> Source:
    """Read every file of a known kind below ``path``; count those of other kinds. Hidden files and folders are passed over.

    Raises:
        InputError: there is nothing to read, or some files cannot be read: all of them are named at once.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    source = Source()
    faults = []
    for file in _files(folder, source.skipped):
        key = file.relative_to(folder).as_posix()
        try:
            key.encode()
        except UnicodeEncodeError:
            faults.append(f"{folder}: the name of the file {key!a} is not UTF-8; rename it")
            continue
        try:
            page = KINDS[file.suffix.lower()](read_text(file))
            page.title.encode()
        except InputError as error:
            faults.append(str(error))
            continue
        except UnicodeEncodeError:  # YAML and JSON can escape half of a surrogate pair
            faults.append(f"{file}: half a character (an unpaired surrogate) stands in the title of its front matter")
            continue
        if page.sections:
            source.documents.append(RawDocument(key, page.title or file.stem, page.text, page.sections, str(file)))
            source.files[file.suffix.lower()] += 1
        else:
            source.empty[key] = str(file)
    _refuse(faults)
    if not source.documents and not source.empty:
        kinds = ", ".join(sorted(KINDS))
        raise InputError(f"{folder}: there is no file of a kind that is read ({kinds}){_what_there_is(source.skipped)}")
    source.questions = read_questions(folder / _QUESTIONS, source)
    return source


def _files(folder: Path, skipped: LeftOut) -> Iterator[Path]:
    """The files of known kinds, in the order of their names; the others are counted."""
    for place, folders, names in os.walk(folder):  # it does not follow links to folders
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (Path(place) / name).is_symlink():
                skipped.add("link to a folder, which is not followed", _shown(Path(place) / name))
        for name in sorted(names):
            file = Path(place) / name
            if name.startswith(".") or file == folder / _QUESTIONS:
                continue
            suffix = file.suffix.lower()
            if suffix not in KINDS:
                skipped.add(f"file of a kind that is not read ({suffix or 'no suffix'})", _shown(file))
            elif name == "README.md":
                skipped.add("README.md, which is about the folder", _shown(file))
            elif (kind := _special(file)) is not None:
                skipped.add(f"{kind} with the name of a {suffix} file", _shown(file))
            else:
                yield file


def _special(file: Path) -> str | None:
    """What ``file`` is if it is neither a regular file nor a broken link; reading a pipe would never end."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return None  # reading it says what is wrong
    return None if stat.S_ISREG(mode) else "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _shown(file: Path) -> str:
    """A path that can be printed and written, also where its name is no UTF-8."""
    return os.fsencode(file).decode(errors="backslashreplace")


def _refuse(faults: list[str]) -> None:
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise InputError("\n  ".join([f"{len(faults)} files cannot be read:", *faults[:_SHOWN], *more]))


def _what_there_is(skipped: LeftOut) -> str:
    return "".join(f"; {count} x {reason}" for reason, count in sorted(skipped.items()))
