"""Words of a text in any script. Chinese, Japanese, Thai and their like put no spaces: there each character counts for one."""

import re
import unicodedata

# Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
_SPACED = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
# C, C++ and C# are three words.
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+[+#]*")


def count_words(text: str) -> int:
    """How long a text is: what stands between white space, with its punctuation, is a word."""
    return sum(1 for _ in _SPACED.finditer(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, counted as ``count_words`` does."""
    return [match.span() for match in _SPACED.finditer(text)]


def words(text: str) -> list[str]:
    """The text's words in order, without case, punctuation and Unicode's compatibility forms (NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
