"""Which texts hold a gold answer word for word: most likely they answer its question, although nobody marked them."""

import re
import string
from collections import defaultdict
from collections.abc import Iterable

# An answer that more passages hold is a word of the subject matter (a disease, a place, "yes") and no sign of a passage's use.
_COMMON = 20
_SHORTEST = 6  # characters of an answer of one word; shorter ones are mostly numbers, and yes or no
_KEY_WORDS = 3


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra space: SQuAD's normalisation (Rajpurkar et al. 2016)."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


class Holding:
    """Looks for answers in texts that come one by one. Of the texts it keeps those that hold one.

    Answers are looked up by their first words, so the time grows with the texts, and not with texts times answers.
    """

    def __init__(self, answers: Iterable[str]):
        """
        Args:
            answers: normalised.
        """
        self._by_key: defaultdict[str, list[str]] = defaultdict(list)
        for answer in sorted(answers):
            self._by_key[" ".join(answer.split()[:_KEY_WORDS])].append(answer)
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def read(self, text: str) -> None:
        words = normalised(text).split()
        keys = {" ".join(words[at : at + size]) for size in range(1, _KEY_WORDS + 1) for at in range(len(words))}
        padded = f" {' '.join(words)} "
        for answer in (answer for key in keys & self._by_key.keys() for answer in self._by_key[key]):
            held = self._found[answer]
            if len(held) <= _COMMON and f" {answer} " in padded and text not in held:
                held.append(text)

    def found(self) -> dict[str, list[str]]:
        """answer -> the different texts that hold it as whole words; answers in more than 20 of them are left out."""
        return {answer: held for answer, held in self._found.items() if 0 < len(held) <= _COMMON}


def texts_holding(answers: Iterable[str], texts: Iterable[str]) -> dict[str, list[str]]:
    """``Holding.found`` of these texts. Answers come normalised."""
    holding = Holding(answers)
    for text in texts:
        holding.read(text)
    return holding.found()


def telling(answer: str) -> bool:
    """Whether a passage that holds this normalised answer is likely to answer: it is two words or six characters long."""
    return " " in answer or len(answer) >= _SHORTEST
