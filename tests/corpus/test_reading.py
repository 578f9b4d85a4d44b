import pytest

from uae.corpus.reading import find_quote


@pytest.mark.parametrize(
    ("quote", "near", "found"),
    [
        ("oil (1.5 l)", None, "oil\n (1.5 l)"),
        ("lamp", None, "lamp"),
        ("Lamp", None, None),
        ("oil (1x5 l)", None, None),
        ("  ", None, None),
    ],
    ids=["other white space", "first place", "case counts", "a point is a point", "blank"],
)
def test_a_quote_is_literal_but_for_white_space(quote, near, found):
    text = "A lamp of oil\n (1.5 l) and a lamp."
    span = find_quote(text, quote, near)
    assert (text[slice(*span)] if span else None) == found


@pytest.mark.parametrize(("near", "start"), [(None, 0), (0, 0), (6, 5), (9, 10), (99, 10)])
def test_the_place_nearest_to_the_offset_is_taken(near, start):
    assert find_quote("lamp lamp lamp", "lamp", near) == (start, start + 4)
