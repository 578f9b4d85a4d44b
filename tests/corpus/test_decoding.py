"""Bytes that are no UTF-8 text are refused with advice that fits what they are."""

import os
import socket

import pytest

from uae.corpus.decoding import read_lines, read_text
from uae.io.errors import InputError

TEXT = "Où brûle la lampe ? Elle brûle au phare.\n"


def refused(path):
    with pytest.raises(InputError) as caught:
        read_text(path)
    with pytest.raises(InputError) as by_lines:
        list(read_lines(path))
    assert str(by_lines.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"lamp",
        b"lamp\n",
        b"lamp\r\nhorn\rbell\n\n",
        b"\xef\xbb\xbflamp\nhorn",
        b"BZh is a word\nhorn",
        "a\u2028b\x0cc\nd".encode(),
    ],
)
def test_lines_one_by_one_are_those_of_the_text(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    text = read_text(tmp_path / "a.txt")
    assert list(read_lines(tmp_path / "a.txt")) in (text.split("\n"), text.split("\n")[:-1])
    assert "\n".join(read_lines(tmp_path / "a.txt")).rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (TEXT.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "iconv -f UTF-16 -t UTF-8"),
        (TEXT.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
        ("The lamp burns.".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
        (TEXT.encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
        (b'<meta charset="windows-1252"><p>caf\xe9', "iconv -f windows-1252 -t UTF-8"),
        (b"<meta http-equiv=a content='text/html; charset=Shift_JIS'>\x83\x7e", "iconv -f Shift_JIS -t UTF-8"),
        (TEXT.encode("latin-1"), "iconv -f ENCODING -t UTF-8 and the encoding it was written in"),
        (b"lamp\nhorn\0bell", "line 2: byte 9 is zero"),
        (b"%PDF-1.7\n1 0 obj\n", "holds a PDF, not text: take its text out"),
        (b"PK\x03\x04\x14\x00", "holds a zip archive, as docx"),
        (b"{\\rtf1\\ansi Lamp}", "holds RTF, not text"),
        (b"\x1f\x8b\x08\x00", "holds gzip, not text: unpack it"),
        (b"\x89PNG\r\n\x1a\n", "holds an image (PNG)"),
        (b"\xd0\xcf\x11\xe0\xa1", "holds an old Office document"),
        (b"GIF89a\x01\x00\x01\x00", "holds an image (GIF)"),
    ],
)
def test_the_advice_fits_the_bytes(tmp_path, data, advice):
    (tmp_path / "a.txt").write_bytes(data)
    assert advice in refused(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "text", ["GIF89a is a format of images.", "BZh is what bzip2 files begin with.", "PDF-1.4", "", "\ufeffLamp"]
)
def test_text_that_begins_like_something_else_is_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == text.removeprefix("\ufeff")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert "no regular file" in refused(tmp_path / "a.txt")


def test_what_is_no_file(tmp_path, monkeypatch):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "nowhere.txt").symlink_to("gone.txt")
    assert "is a folder; a file was expected" in refused(tmp_path / "folder.txt")
    assert "is a link that leads nowhere" in refused(tmp_path / "nowhere.txt")
    assert "does not exist" in refused(tmp_path / "gone.txt")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.txt")
        assert "cannot be read" in refused(tmp_path / "s.txt")
