"""From a file's bytes to text. Anything but UTF-8 text is refused, with advice that fits the bytes."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from uae.io.errors import InputError

# What a file begins with -> what it is, and what to do about it.
_KINDS = {
    b"%PDF-": ("a PDF", "take its text out, for example with pdftotext"),
    b"PK\x03\x04": ("a zip archive, as docx, odt and epub files are", "save it as text, Markdown or HTML"),
    b"\xd0\xcf\x11\xe0": ("an old Office document", "save it as text, Markdown or HTML"),
    b"{\\rtf": ("RTF", "save it as text, Markdown or HTML"),
    b"\x1f\x8b": ("gzip", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unpack it"),
    b"BZh": ("bzip2", "unpack it"),
    b"\xfd7zXZ": ("xz", "unpack it"),
    b"\x89PNG": ("an image (PNG)", "take it out of the source"),
    b"\xff\xd8\xff": ("an image (JPEG)", "take it out of the source"),
    b"GIF8": ("an image (GIF)", "take it out of the source"),
}
_MARKS = {  # the longer ones first: two of them begin alike
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_DECLARED = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_HEAD = 4096  # bytes


def read_text(path: Path) -> str:
    """Read UTF-8 text. A byte order mark is dropped, line ends become \\n.

    Raises:
        InputError: missing, no regular file, not readable, or no UTF-8 text.
    """
    data = _read_bytes(Path(path))
    for start, (kind, advice) in _KINDS.items():
        if data.startswith(start) and not _is_plain(data, start):
            raise InputError(f"{path} holds {kind}, not text: {advice}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{path}, line {_line(data, error.start)}: byte {error.start} ({data[error.start]:#04x}) is not UTF-8"
        raise InputError(f"{place}; {_advice(data)}") from None
    if "\0" in text:
        zero = data.index(b"\0")
        raise InputError(f"{path}, line {_line(data, zero)}: byte {zero} is zero, which no text holds; {_advice(data)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of ``read_text``, one by one: the file is never in memory as a whole. Errors as there, when they are come to."""
    path = Path(path)
    if not _looks_like_text(path):
        yield from read_text(path).split("\n")
        return
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for line in stream:
                if "\0" in line:
                    raise ValueError("zero")
                yield line.removesuffix("\n")
    except (OSError, ValueError):  # a UnicodeDecodeError among them
        read_text(path)  # it says what is wrong
        raise InputError(f"{path} was changed while it was read: run the same command again") from None


def _looks_like_text(path: Path) -> bool:
    """By its kind and its first bytes; False where it cannot be read."""
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            return stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and not stream.read(8).startswith((*_KINDS, *_MARKS))
    except (OSError, ValueError):
        return False


def _read_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise InputError(f"{path} is no regular file, but a pipe, a socket or a device")
            return stream.read()
    except FileNotFoundError:
        leads = " is a link that leads nowhere" if path.is_symlink() else " does not exist"
        raise InputError(f"{path}{leads}") from None
    except NotADirectoryError:
        raise InputError(f"{path.parent} is a file; a folder was expected") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a file was expected") from None
    except OSError as error:  # no permission, a socket, or a link that leads to itself
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a zero in its name
        raise InputError(f"{str(path)!a} cannot be read: {error}") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # reading a pipe that nobody writes to would never end


def _is_plain(data: bytes, start: bytes) -> bool:
    """Whether a file with a beginning that is letters only is text all the same: "BZh" and "GIF8" are words, too."""
    return start.isalnum() and b"\0" not in data[:_HEAD] and _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _line(data: bytes, place: int) -> int:
    return data.count(b"\n", 0, place) + 1


def _advice(data: bytes) -> str:
    if encoding := _encoding(data):
        return f"it looks like {encoding}: convert it with iconv -f {encoding} -t UTF-8"
    return "if it is text, save it as UTF-8, for example with iconv -f ENCODING -t UTF-8 and the encoding it was written in"


def _encoding(data: bytes) -> str | None:
    """What the first bytes say: a byte order mark, zeros in every second place, or a declaration in HTML."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    head = data[:_HEAD]
    for first, encoding in ((0, "UTF-16BE"), (1, "UTF-16LE")):  # letters of European scripts have one byte of zero
        zeros, others = head[first::2], head[1 - first :: 2]
        if zeros and zeros.count(0) > 0.4 * len(zeros) and not others.count(0):
            return encoding
    declared = _DECLARED.search(head)
    name = declared[1].decode("ascii", "replace") if declared else ""
    return name if name.lower() not in ("", "utf-8", "utf8") else None
