import pytest

from uae.corpus.adapters import folder
from uae.io.errors import InputError

MARKDOWN = """\
Kept by hand since 1890.

# Tending the *light*

The keeper winds the clock.

## Lens

Wipe it with chamois.

### Mantle

Replace it every ten nights.

```
# not a heading
```

> ## quoted, not a heading

Horn
----

Sound it twice.

### Reed

Dry it.
"""


@pytest.fixture
def read(tmp_path, write_jsonl):
    def read_files(files, questions=()):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        write_jsonl(tmp_path / "questions.jsonl", questions)
        return folder.read(str(tmp_path))

    return read_files


def test_nested_markdown_headings_label_the_sections(read, sections_of):
    (document,) = read({"light.md": MARKDOWN}).documents

    found = [(title, " ".join(text.split())) for title, text in sections_of(document)]

    assert document.title == "Tending the *light*"
    assert document.text == MARKDOWN
    assert found == [
        ("", "Kept by hand since 1890."),
        ("", "The keeper winds the clock."),
        ("Lens", "Wipe it with chamois."),
        ("Lens > Mantle", "Replace it every ten nights. ``` # not a heading ``` > ## quoted, not a heading"),
        ("Horn", "Sound it twice."),
        ("Horn > Reed", "Dry it."),
    ]


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ntitle: The light\ntags:\n  - lamp\n- horn\n\n# remark\n---\n", "The light"),
        ('---\nlayout: page\ntitle: "The light: a guide"  \n...\n', "The light: a guide"),
        ("---\nlayout: page\ntitle: >\n  The light\n---\n", "The light"),
        ("---\nsubtitle: The light\n---  \n", "Tending"),
    ],
    ids=["title", "quoted", "title over lines", "no title"],
)
def test_front_matter_is_no_text(read, sections_of, front, title):
    (document,) = read({"a.md": f"{front}# Tending\n\nWind it.\n\n---\n\nDry it.\n"}).documents
    assert document.title == title
    assert [text.split() for _, text in sections_of(document)] == [["Wind", "it.", "---", "Dry", "it."]]


@pytest.mark.parametrize(
    "text", ["---\n\nWind it.\n\n---\n", "---\nnote: wind it.\n", "Wind it.\n\n---\nnote: dry\n---\n", "---\n- Wind\n---\n"]
)
def test_text_between_rules_is_no_front_matter(read, text):
    (document,) = read({"a.md": text}).documents
    assert document.text == text


def test_markdown_without_headings_is_one_section_named_after_its_file(read, sections_of):
    (document,) = read({"notes/log.md": "Calm night.\n\nNo ships."}).documents
    assert (document.key, document.title) == ("notes/log.md", "log")
    assert sections_of(document) == [("", "Calm night.\n\nNo ships.")]


def test_text_files_are_taken_as_they_are(read, sections_of):
    (document,) = read({"log.txt": "# Calm *night*.\n"}).documents
    assert document.title == "log"
    assert sections_of(document) == [("", "# Calm *night*.\n")]


HTML = """<!DOCTYPE html>
<html><head><title>The &amp; light</title><style>p { color: red }</style></head>
<body><script>var secret = "script text";</script><style>b { x: y }</style><!-- a remark -->
<h1>Tending the light</h1>
<p>The <b>brass</b> lamp<i>s</i>
   shine&nbsp;at caf&eacute; &lt;Nord&gt;.</p>
<h2>Lens <em>care</em></h2>
<ul><li>Wipe it.</li><li>Dry <a href="x">it</a>.</li></ul>
<div>Loose <span>text</span><p>inside</p>a box</div>
<noscript>turn scripts on</noscript>
</body></html>"""


def test_html_keeps_words_together_and_leaves_scripts_styles_and_remarks_out(read, sections_of):
    (document,) = read({"light.html": HTML}).documents

    assert document.title == "The & light"
    assert [(title, text.strip().replace("\n\n", "|")) for title, text in sections_of(document)] == [
        ("Tending the light", "The brass lamps shine at café <Nord>."),
        ("Tending the light > Lens care", "Wipe it.|Dry it.|Loose text|inside|a box"),
    ]


def test_html_without_a_title_takes_its_first_heading(read):
    (document,) = read({"light.htm": "<h1>The light</h1><p>Burns.</p><h1>More</h1>"}).documents
    assert document.title == "The light"


@pytest.mark.parametrize(
    "html",
    [
        "<p>Wind the clock<br>at dusk</p>",
        "<article>Wind the clock</article><article>at dusk</article>",
        "<dl>Wind the clock<hr>at dusk</dl>",
    ],
    ids=["br", "article", "hr"],
)
def test_html_line_breaks_and_blocks_part_words(read, html):
    (document,) = read({"light.html": html}).documents
    assert document.text.split() == ["Wind", "the", "clock", "at", "dusk"]


def test_read_me_hidden_files_and_other_kinds_are_left_out(read):
    source = read(
        {
            "a.md": "Lamp.",
            "b.TXT": "Horn.",
            "README.md": "About this folder.",
            "sub/README.md": "About that one.",
            ".draft.md": "Hidden.",
            ".git/c.md": "Hidden.",
            "d.rst": "Not read.",
        }
    )
    assert [document.key for document in source.documents] == ["a.md", "b.TXT"]


def test_questions_name_files_by_their_path_and_quotes_are_found(read, evidence_of):
    row = {"question": "How often?", "answers": ["twice"], "document": "horn/use.md", "evidence": ["Sound it twice."]}
    source = read({"horn/use.md": MARKDOWN, "a.txt": "Sound it twice."}, [row])

    (asked,) = source.questions

    assert (asked.document, asked.answers) == ("horn/use.md", ("twice",))
    assert evidence_of(source, asked) == ["Sound it twice."]


def test_a_byte_order_mark_and_windows_line_ends_do_not_hide_the_title(tmp_path, write_jsonl, sections_of):
    (tmp_path / "light.md").write_bytes("# Light\r\n\r\nIt burns.\r\n".encode("utf-8-sig"))
    write_jsonl(tmp_path / "questions.jsonl", [])
    (document,) = folder.read(str(tmp_path)).documents
    assert document.title == "Light"
    assert [text.strip() for _, text in sections_of(document)] == ["It burns."]


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "light.md").write_text("It burns.")
    with pytest.raises(InputError, match=r"light\.md is not a folder"):
        folder.read(str(tmp_path / "light.md"))


def test_a_folder_with_nothing_to_read_is_refused(read):
    with pytest.raises(
        InputError, match=r"no file of a kind that is read \(\.htm, \.html, .*; 1 x file of a kind that is not read \(\.rst\)"
    ):
        read({"d.rst": "Not read."})
