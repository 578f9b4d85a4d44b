"""From params.yaml to the engine that reads: no server is asked, and no model but a tiny one is loaded."""

from pathlib import Path

import pytest

import uae
from uae.pipeline.settings import load_settings
from uae.pipeline.stages.evaluate import EvaluateParameters, answering_of, llm_terms
from uae.pipeline.teachers import asked_teachers
from uae.pipeline.workspace import Workspace
from uae.teacher.engines.local import CausalTeacher
from uae.teacher.engines.served import ServedTeacher
from uae.teacher.engines.served_chat import ChatTeacher

PARAMS = Path(uae.__file__).parents[1] / "params.yaml"
SERVER = "{{url: 'http://127.0.0.1:9', concurrency: 2, timeout_s: 9, batch_pairs: 8, api: {api}, top_logprobs: 7}}"
JUDGE = (
    "teachers.main.method=judgement", "teachers.main.grades=['No', 'Yes']", "teachers.main.check_templates=[]",
    "teachers.main.templates=[{passage: '{passage}', question: ' {question}', answer: '{answer}', chat: true}]",
)  # fmt: skip


@pytest.fixture
def asked(tiny_lm, tmp_path):
    def teacher(*overrides: str):
        s = load_settings(PARAMS, [f"teachers.main.model=path:{tiny_lm}", "compute.device=cpu", *overrides])
        (found,) = asked_teachers(s.teachers, s.passages, s.label, s.compute, Workspace(tmp_path))
        return found

    return teacher


def test_a_chat_endpoint_gets_its_grades_and_the_number_of_log_probs(asked):
    found = asked(*JUDGE, f"teachers.main.server={SERVER.format(api='chat')}")
    engine = found.open()
    assert isinstance(engine, ChatTeacher)
    assert (engine.grades, engine.top_logprobs, engine.batch_pairs) == (("No", "Yes"), 7, 8)
    assert found.fingerprint == engine.fingerprint
    assert [template.chat for template in found.templates] == [True]


def test_a_completions_endpoint_is_another_engine_with_another_fingerprint(asked):
    found = asked(f"teachers.main.server={SERVER.format(api='completions')}")
    assert isinstance(found.open(), ServedTeacher)
    assert found.fingerprint != asked(*JUDGE, f"teachers.main.server={SERVER.format(api='chat')}").fingerprint


def test_without_a_server_the_model_is_local_and_prompts_are_plain(asked):
    found = asked()
    assert isinstance(found.open(), CausalTeacher)
    assert not any(template.chat for template in (*found.templates, *found.check_templates))


@pytest.mark.parametrize("chat", [False, True])
def test_the_held_out_llm_has_a_chat_of_its_own(tiny_lm, chat_lm, tmp_path, chat):
    """It is asked as the teacher is, but may be a model without a chat template."""
    s = load_settings(
        PARAMS,
        [
            *JUDGE, f"teachers.main.model=path:{chat_lm}", f"models.held_out=path:{tiny_lm}", f"models.reader=path:{chat_lm}",
            f"evaluate.held_out_chat={str(chat).lower()}", f"evaluate.reader_chat={str(not chat).lower()}", "compute.device=cpu",
        ],
    )  # fmt: skip
    terms = llm_terms(EvaluateParameters.of(s), Workspace(tmp_path))
    assert [template.chat for template in terms.teacher.templates] == [True]
    assert [template.chat for template in terms.held_out.templates] == [chat]
    assert answering_of(s.evaluate).chat == {"held out" if chat else "reader"}
