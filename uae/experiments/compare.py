"""``uae compare``: what the parameter file says, with changes by contender, fitted and measured on equal terms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from uae.io.errors import ConfigError
from uae.pipeline.settings import Objective, load_settings, select
from uae.pipeline.stages import STAGES, Workspace, training_plan

_OBJECTIVES = get_args(Objective)


def compare_recipes(
    params: Path,
    overrides: Sequence[str],
    contenders: Sequence[str],
    seeds: int,
    workspace: Workspace,
    folder: Path,
    announce: Callable[[str], None],
    questions_path: Path | None = None,
    split: str = "test",
) -> dict:
    """See ``uae.experiments.contenders.compare``.

    Args:
        questions_path: None: the workspace's.
        contenders: ``NAME: KEY=VALUE ...``, parameters of train or utility; or an objective's name alone. Empty: all objectives.
        seeds: how many, counted from the parameter file's.

    Raises:
        ConfigError: a contender cannot be read, or two have one name.
    """
    from uae.experiments.contenders import Contender, compare

    settings = load_settings(params, overrides)
    entered = []
    for text in contenders or _OBJECTIVES:
        name, changes = parse_contender(text)
        its_own = select(load_settings(params, [*overrides, *changes]), STAGES["train"].params)
        entered.append(Contender(name, training_plan(its_own, workspace, folder / "refreshed_labels")))
    names = [contender.name for contender in entered]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two contenders have the name {sorted(twice)[0]!r}: give each its own")
    p = select(settings, ("seed", "scope", "compute.device", "models.student", "evaluate"))
    return compare(
        candidates_path=workspace.path("candidates"),
        passages_path=workspace.path("passages"),
        questions_path=questions_path or workspace.path("questions"),
        store_path=workspace.path("labels"),
        manifest_path=workspace.path("label_manifest"),
        base_path=workspace.model(p.models.student),
        folder=folder,
        contenders=entered,
        seeds=range(p.seed, p.seed + seeds),
        scope=p.scope,
        cutoffs=p.evaluate.cutoffs,
        resamples=p.evaluate.resamples,
        confidence=p.evaluate.confidence,
        device=p.compute.device,
        announce=announce,
        split=split,
    )


def parse_contender(text: str) -> tuple[str, list[str]]:
    """A contender's name and its overrides.

    Raises:
        ConfigError: it is neither an objective nor ``NAME: KEY=VALUE ...``, or changes what all must have in common.
    """
    name, colon, changes = (part.strip() for part in text.partition(":"))
    if not colon and name in _OBJECTIVES:
        return name, [f"train.objective={name}"]
    keys = changes.split()
    if not name.replace("-", "").replace("_", "").isalnum() or not keys:
        raise ConfigError(
            f"--contender {text!r}: expected 'NAME: KEY=VALUE ...' or one of the objectives {', '.join(_OBJECTIVES)}"
        )
    if foreign := [key for key in keys if not key.startswith(("train.", "utility."))]:
        raise ConfigError(f"--contender {text!r}: {foreign[0]} is the same for all; use --set, or a key of train or utility")
    return name, keys
