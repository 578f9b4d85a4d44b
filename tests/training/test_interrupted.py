"""Ctrl-C during training: wherever it strikes, it is not swallowed, nothing half-made is left, and the same command goes on."""

import signal

import pytest
import torch
from small_training import finds_nothing_useful, run

import uae.training.fit
from uae.io.models import fingerprint
from uae.training.agreement import Agreement
from uae.training.batches import UtilityCollator
from uae.training.loss import ObjectiveLoss
from uae.training.pairs_loss import PairsLoss

TERMS = {"epochs": 3}


def press_ctrl_c(*args, **kwargs) -> None:
    signal.raise_signal(signal.SIGINT)


def strikes(monkeypatch, kind: type, method: str, at: int) -> None:
    """Ctrl-C is pressed within the call of this number."""
    calls, real = [], getattr(kind, method)

    def struck(*args, **kwargs):
        calls.append(kind)
        if len(calls) == at:
            press_ctrl_c()
        return real(*args, **kwargs)

    monkeypatch.setattr(kind, method, struck)


def in_backward(monkeypatch, at: int) -> None:
    calls, real = [], ObjectiveLoss.forward

    def forward(self, *args, **kwargs):
        calls.append(self)
        loss = real(self, *args, **kwargs)
        if len(calls) == at:
            loss.register_hook(press_ctrl_c)
        return loss

    monkeypatch.setattr(ObjectiveLoss, "forward", forward)


def in_a_callback(monkeypatch, at: int) -> None:
    strikes(monkeypatch, uae.training.fit.Clock, "on_step_end", at)


PLACES = {
    "making a batch": lambda patch: strikes(patch, UtilityCollator, "__call__", 4),
    "forward": lambda patch: strikes(patch, ObjectiveLoss, "forward", 4),
    "encoding with what backward keeps counted": lambda patch: strikes(patch, torch.Tensor, "untyped_storage", 60),
    "backward": lambda patch: in_backward(patch, 4),
    "a callback": lambda patch: in_a_callback(patch, 4),
    "the validation score": lambda patch: strikes(patch, Agreement, "scores", 3),
}


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("place", PLACES)
def test_it_ends_training_wherever_it_strikes_and_the_next_run_goes_on(labelled, tiny_encoder, place):
    whole = run(labelled, tiny_encoder, "whole", **TERMS)["fingerprint"]
    with pytest.MonkeyPatch.context() as patch:
        PLACES[place](patch)
        with pytest.raises(KeyboardInterrupt):
            run(labelled, tiny_encoder, "cut", **TERMS)
    assert not (labelled / "cut").exists()
    assert not (labelled / "cut-rivals").exists()
    assert run(labelled, tiny_encoder, "cut", **TERMS)["fingerprint"] == whole == fingerprint(labelled / "cut")


def test_while_the_teacher_is_asked_for_more(labelled, tiny_encoder):
    with pytest.raises(KeyboardInterrupt):
        run(labelled, tiny_encoder, "cut", rounds=1, ask=press_ctrl_c, **TERMS)
    assert not (labelled / "cut").exists()
    asked = {name: finds_nothing_useful(labelled, name) for name in ("cut", "whole")}
    results = {name: run(labelled, tiny_encoder, name, rounds=1, ask=ask, **TERMS) for name, ask in asked.items()}
    assert results["cut"]["fingerprint"] == results["whole"]["fingerprint"]


def test_while_the_reward_model_is_fitted(labelled, tiny_encoder):
    with pytest.MonkeyPatch.context() as patch:
        strikes(patch, PairsLoss, "forward", 3)
        with pytest.raises(KeyboardInterrupt):
            run(labelled, tiny_encoder, "cut", reward=0.5, **TERMS)
    assert not (labelled / "cut").exists()
    assert not (labelled / "cut-reward" / "reward.json").exists()
    results = [run(labelled, tiny_encoder, name, reward=0.5, **TERMS)["fingerprint"] for name in ("cut", "whole")]
    assert results[0] == results[1]


def test_while_the_second_stage_is_fitted(labelled, tiny_encoder):
    with pytest.MonkeyPatch.context() as patch:
        strikes(patch, PairsLoss, "forward", 5)
        with pytest.raises(KeyboardInterrupt):
            run(labelled, tiny_encoder, "cut", second_base=tiny_encoder, **TERMS)
    assert not (labelled / "cut-second").exists()
    found = [run(labelled, tiny_encoder, name, second_base=tiny_encoder, **TERMS) for name in ("cut", "whole")]
    assert found[0]["second_stage"]["fingerprint"] == found[1]["second_stage"]["fingerprint"]
    assert found[0]["fingerprint"] == found[1]["fingerprint"]
