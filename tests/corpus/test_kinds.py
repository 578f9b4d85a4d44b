"""Pages as people have them: front matter of every generator, HTML as the web has it, and no heading lost."""

import pytest

from uae.corpus.kinds import html, markdown
from uae.corpus.kinds.front_matter import split_front_matter

BODY = "The valve is opened before the motor is started.\n"


def texts(page):
    return [(section.title, " ".join(page.text[section.start : section.end].split())) for section in page.sections]


FRONT_MATTER = {
    "YAML": "---\ntitle: Pump house\ntags: [water, keys]\n---\n",
    "a quoted key": '---\n"title": "Pump house"\n---\n',
    "a key in single quotes": "---\n'title': Pump house\n---\n",
    "a comment before the keys": "---\n# by hand\ntitle: Pump house\n---\n",
    "a title over lines": "---\ntitle: >-\n  Pump\n  house\nsummary: |\n  keeps\n\n  going\n---\n",
    "a title with a colon, which is no YAML": "---\nlayout: page\ntitle: Pump house\nsubtitle: a: b: c\n---\n",
    "ends in dots": "---\ntitle: Pump house\n...\n",
    "a language": "---yaml\ntitle: Pump house\n---\n",
    "TOML": '+++\ntitle = "Pump house"\ndate = 2024-02-03\n\n[menu]\nweight = 3\n+++\n',
    "JSON": '{\n  "title": "Pump house",\n  "draft": true\n}\n',
    "a licence before it": "<!--\nCopyright somebody\n-->\n\n---\ntitle: Pump house\n---\n",
    "a licence before TOML": '<!-- SPDX-License-Identifier: MIT -->\n+++\ntitle = "Pump house"\n+++\n',
    "blank lines before it": "\n\n---\ntitle: Pump house\n---\n",
}


@pytest.mark.parametrize("front", FRONT_MATTER.values(), ids=FRONT_MATTER)
def test_front_matter_gives_the_title_and_no_text(front):
    assert split_front_matter(front + BODY) == ("Pump house", BODY)
    page = markdown.parse(f"{front}{BODY}\n## Oil\n\nTwo litres.\n")
    assert (page.title, texts(page)) == ("Pump house", [("", BODY.strip()), ("Oil", "Two litres.")])


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ndraft: true\n---\n", ""),
        ("---\n---\n", ""),
        ("---\ntitle: [a, b]\n---\n", ""),
        ("---\ntitle: 1984\n---\n", "1984"),
        (f"---\ntitle: 0x{'f' * 5000}\n---\n", ""),  # Python does not write a number of so many digits
        ('---\ntitle: "\\ud83d\\ude80 Launch"\n---\n', "\U0001f680 Launch"),  # in two halves, as JSON has it
        ('+++\ndescription = "x"\n+++\n', ""),
    ],
)
def test_front_matter_without_a_usable_title(front, title):
    assert split_front_matter(front + BODY) == (title, BODY)


@pytest.mark.parametrize(
    "text",
    [
        "---\nThe following holds: wind it.\n---\nMore.\n",
        "---\n# A heading between rules\n---\nMore.\n",
        "+++\nnot toml\n+++\nMore.\n",
        '{"only": "json"}\n',
        "{{< shortcode >}}\n\nMore.\n",
        '{"a": 1} is what it returns.\n\nMore.\n',
        "<!-- a remark -->\n\nMore.\n",
        "---\ntitle: never closed\n",
    ],
)
def test_what_only_looks_like_front_matter_is_text(text):
    assert split_front_matter(text) == ("", text)


MANUAL = "# Manual\n\nIntro.\n\n# Pump\n\nOpen it.\n\n## Oil\n\nTwo litres.\n\n# Boiler\n\n## Oil\n\nFive litres.\n"


def test_a_second_h1_is_a_step_of_the_path_and_the_title_is_not_repeated():
    page = markdown.parse(MANUAL)
    assert page.title == "Manual"
    assert texts(page) == [
        ("", "Intro."),
        ("Pump", "Open it."),
        ("Pump > Oil", "Two litres."),
        ("Boiler > Oil", "Five litres."),
    ]


def test_an_h1_that_is_not_the_title_is_in_the_path():
    page = markdown.parse("---\ntitle: Alarms\n---\n# How to reset the panel\n\nPress both keys.\n")
    assert (page.title, texts(page)) == ("Alarms", [("How to reset the panel", "Press both keys.")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# T\n\n## A\n## B\n\nText.\n", [("", "A"), ("B", "Text.")]),
        ("# T\n\nText.\n\n## Last ##\n", [("", "Text."), ("", "Last")]),
        ("# T\n\n## A\n\n### B\n\n## C\n\nText.\n", [("A", "B"), ("C", "Text.")]),
        ("Title\n====\n\nText.\n\nEnd\n---\n", [("", "Text."), ("", "End")]),
    ],
)
def test_a_heading_with_nothing_below_it_is_a_text(text, expected):
    assert texts(markdown.parse(text)) == expected


@pytest.mark.parametrize("text", [MANUAL, "# T\n\n## A\n## B\n\nText.\n\n### C\n#### D\n# E\n", "## A\n\nx\n\n# B\n\n###### C\n"])
def test_every_heading_is_kept_where_models_read(text):
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    for page in (markdown.parse(text), html.parse("".join(_as_html(line) for line in text.splitlines() if line))):
        steps = {step for title, _ in texts(page) for step in title.split(" > ")}
        kept = steps | {page.title} | {words.lstrip("# ") for _, words in texts(page)}
        assert not set(headings) - kept


def _as_html(line):
    level = len(line) - len(line.lstrip("#"))
    return f"<h{level}>{line.lstrip('# ')}</h{level}>" if level else f"<p>{line}</p>"


@pytest.mark.parametrize(
    "start",
    [
        "<html><head><title>The  plant</title></head><body>",
        "<!doctype html><title>The plant</title>",
        "<html><head><title>The\nplant</title><body>",
        "<html><head><meta charset=utf-8><title>The plant</title>",
    ],
    ids=["whole", "no tags of the head", "head never closed", "no body"],
)
def test_the_title_is_that_of_the_head_and_a_head_that_is_left_open_hides_no_text(start):
    page = html.parse(f"{start}<svg><title>Menu</title></svg><h1>Reset</h1><p>Press it.</p>")
    assert page.title == "The plant"
    assert texts(page) == [("", "Menu"), ("Reset", "Press it.")]


def test_a_drawing_gives_no_title():
    page = html.parse("<body><svg><title>Menu</title></svg><h1>Reset</h1><p>Press it.</p></body>")
    assert page.title == "Reset"


def test_front_matter_of_a_page_in_html():
    page = html.parse("---\ntitle: Plant\n---\n<p>Press it.</p>")
    assert (page.title, page.text) == ("Plant", "Press it.")


def test_preformatted_text_keeps_its_lines_and_indents():
    page = html.parse("<p>Run</p><pre><code>\n<span>for</span> key:\n    <span>press</span>(key)\n</code></pre><p>twice.</p>")
    assert page.text == "Run\n\nfor key:\n    press(key)\n\ntwice."


APART = {
    "links": "<a href=1>Wind</a><a href=2>the</a><a href=3>clock</a>",
    "labels": "<span>Wind</span><span>the</span><span>clock</span>",
    "keys": "<kbd>Wind</kbd><kbd>the</kbd><kbd>clock</kbd>",
    "an image": "Wind<img src=x>the<img src=y>clock",
    "options": "<select><option>Wind<option>the<option>clock</select>",
    "a field": "Wind<input name=a>the<button>clock</button>",
    "details": "<details><summary>Wind</summary>the<p>clock</details>",
    "cells": "<table><tr><td>Wind<td>the<tr><th>clock</table>",
    "a break": "Wind<br/>the<br>clock",
    "paragraphs left open": "<p>Wind<p>the<p>clock",
}


@pytest.mark.parametrize("markup", APART.values(), ids=APART)
def test_what_a_browser_shows_apart_is_not_welded(markup):
    assert html.parse(f"<body>{markup}</body>").text.split() == ["Wind", "the", "clock"]


@pytest.mark.parametrize(
    "markup",
    [
        "<b>W</b>ind",
        "<b>W</b><i>i</i>nd",
        "W<sub>in</sub>d",
        "Wi&shy;nd",
        "Wi<wbr>nd",
        "<code><span>Wi</span><span>nd</span></code>",
    ],
)
def test_what_a_browser_shows_as_one_word_is_one_word(markup):
    assert html.parse(f"<p>{markup}</p>").text == "Wind"


def test_a_heading_with_blocks_inside_is_one_heading():
    page = html.parse("<h1>Plant</h1><h2><div>Reset</div><div>it</div></h2><p>Press.</p>")
    assert texts(page) == [("Reset it", "Press.")]
