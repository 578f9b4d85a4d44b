"""What models read of a passage."""

import pandas as pd
import pytest

from uae.io.errors import ConfigError
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


@pytest.mark.parametrize("template", ["", "{title}", "{text} {text}", "text"])
def test_the_text_stands_exactly_once(template):
    with pytest.raises(ConfigError, match="exactly once"):
        PassageTemplate(template)


@pytest.mark.parametrize("name", ["heading", "Text", "0", ""])
def test_unknown_placeholders_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=rf"placeholder \{{{name}\}}"):
        PassageTemplate(f"{{{name}}} {{text}}")


def test_a_table_keeps_its_other_columns():
    table = pd.DataFrame({"passage_id": ["p"], "title": ["T"], "section": ["S"], "text": ["x"], "start": [3]})
    read = PassageTemplate("{title}\n{section}\n{text}").applied(table)
    assert read["text"].tolist() == ["T\nS\nx"]
    assert read.drop(columns="text").equals(table.drop(columns="text"))
    assert table["text"].tolist() == ["x"]
    assert PassageTemplate(PLAIN).applied(table).equals(table)
