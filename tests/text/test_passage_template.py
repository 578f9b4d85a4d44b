"""What models read of a passage."""

import re

import pandas as pd
import pytest

from uae.io.errors import ConfigError, InputError
from uae.text.passage_template import PLAIN, PassageTemplate


@pytest.mark.parametrize(
    ("template", "title", "section", "text", "expected"),
    [
        ("{text}", "Harbour", "Ferries", "It leaves at nine.", "It leaves at nine."),
        ("{section}\n{text}", "Harbour", "Ferries", "It leaves at nine.", "Ferries\nIt leaves at nine."),
        ("{section}\n{text}", "Harbour", "", "It leaves at nine.", "It leaves at nine."),
        ("{title}: {section}\n{text}", "Harbour", "", "At nine.", "Harbour: \nAt nine."),
        ("{title}: {section}\n{text}", "", " ", "At nine.", "At nine."),
        ("Passage\n{title}\n{text}", "", "Ferries", "At nine.", "Passage\nAt nine."),
        ("{text}\n({title})", "Harbour", "", "At nine.", "At nine.\n(Harbour)"),
        # braces in the texts are texts
        ("{title}\n{text}", "A {section} of {text}", "Ferries", "{title} {0}", "A {section} of {text}\n{title} {0}"),
    ],
)
def test_lines_of_empty_placeholders_vanish(template, title, section, text, expected):
    assert PassageTemplate(template).render(title, section, text) == expected


@pytest.mark.parametrize(
    "template", ["{text}", "{title}\n{text}", "{title}: {section}\n{text}", "From {title} {title}\n{text} ({title})\nEnd"]
)
@pytest.mark.parametrize("section", ["", "Ferries"])
def test_without_title_everything_is_read_as_where_there_is_none(template, section):
    read_as = PassageTemplate(template)
    short = read_as.without_title()
    assert not short.has_title
    assert read_as.has_title == (short != read_as)
    assert short.render("Harbour", section, "At nine.") == read_as.render("", section, "At nine.")


@pytest.mark.parametrize("template", ["", "{title}", "{text} {text}", "text"])
def test_the_text_stands_exactly_once(template):
    with pytest.raises(ConfigError, match="exactly once"):
        PassageTemplate(template)


@pytest.mark.parametrize("name", ["heading", "Text", "0", "", "title ", " text", "doc.title", "doc-title", "title!r", "a b"])
def test_unknown_placeholders_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=rf"placeholder \{{{re.escape(name)}\}}"):
        PassageTemplate(f"{{{name}}} {{text}}")


def test_a_table_keeps_its_other_columns():
    table = pd.DataFrame({"passage_id": ["p"], "title": ["T"], "section": ["S"], "text": ["x"], "start": [3]})
    read = PassageTemplate("{title}\n{section}\n{text}").applied(table)
    assert read["text"].tolist() == ["T\nS\nx"]
    assert read.drop(columns="text").equals(table.drop(columns="text"))
    assert table["text"].tolist() == ["x"]
    assert PassageTemplate(PLAIN).applied(table).equals(table)


def passages(*rows: tuple[str, int, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["doc_id", "position", "text"])
    return table.assign(passage_id=[f"p{number}" for number in range(len(table))], title="", section="")


HARBOUR = [
    ("harbour", 0, "The harbour has two ferries. They are red."),
    ("harbour", 1, "They leave at nine. They come back at noon."),
    ("harbour", 2, "In winter there is none."),
]


def test_neighbouring_sentences_are_those_of_the_passages_around():
    assert PassageTemplate("{before}\n{text}\n{after}").texts(passages(*HARBOUR)) == [
        "The harbour has two ferries. They are red.\nThey leave at nine.",
        "They are red.\nThey leave at nine. They come back at noon.\nIn winter there is none.",
        "They come back at noon.\nIn winter there is none.",
    ]


def test_neighbours_follow_positions_and_never_cross_documents():
    mixed = [HARBOUR[2], ("tower", 0, "The tower is old."), HARBOUR[0], ("tower", 1, "Nobody climbs it."), HARBOUR[1]]
    read = PassageTemplate("{before}\n{text}").texts(passages(*mixed))
    assert read == [
        "They come back at noon.\nIn winter there is none.",
        "The tower is old.",
        "The harbour has two ferries. They are red.",
        "The tower is old.\nNobody climbs it.",
        "They are red.\nThey leave at nine. They come back at noon.",
    ]


@pytest.mark.parametrize("rows", [HARBOUR[1:], [HARBOUR[0], HARBOUR[2]], [HARBOUR[0], HARBOUR[0]]])
def test_half_a_document_is_refused(rows):
    with pytest.raises(InputError, match="all passages of a document"):
        PassageTemplate("{before}\n{text}").texts(passages(*rows))
    assert PassageTemplate("{section}\n{text}").texts(passages(*rows)) == [text for _, _, text in rows]


def test_no_passages_are_read_as_none():
    assert PassageTemplate("{before}\n{text}").texts(passages()) == []
