"""The probe of a local model: short prompts that are read as token trees and whole, to see whether the model can read trees."""

from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair

TEMPLATE = Template("Passage: {passage}\n\n", "Question: {question}\nAnswer:", " {answer}")


def probe_pairs() -> list[Pair]:
    passages = (None, "The boiler room is on the second floor. Its door is locked at six, and the night guard keeps the key.")
    asked = (("Where is the boiler room?", "on the second floor"), ("Where is the key kept?", "by the night guard"),
             ("When is the door locked?", "at six"))  # fmt: skip
    return [
        Pair((str(number), "" if passage is None else "p", "", "", ""), question, answer, passage)
        for passage in passages
        for number, (question, answer) in enumerate(asked)
    ]
