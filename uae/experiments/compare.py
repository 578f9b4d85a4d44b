"""``uae compare``: what the parameter file says, with changes by contender, fitted and measured on equal terms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from uae.io.errors import ConfigError
from uae.pipeline.settings import EvaluateSettings, Settings, load_settings
from uae.pipeline.stage import Key, Parameters
from uae.pipeline.stages.train import TrainParameters, more_labels, training_data
from uae.pipeline.workspace import Workspace
from uae.retrievers.prompts import Prompts
from uae.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    from uae.experiments.contenders import Contender


class CompareParameters(Parameters):
    """What the comparison itself reads; training reads its own."""

    seed: int
    device: Annotated[str, Key("compute.device")]
    student: Annotated[str, Key("models.student")]
    student_prompts: Annotated[Prompts | None, Key("models.student_prompts")]
    evaluate: EvaluateSettings


def compare_recipes(
    params: Path,
    overrides: Sequence[str],
    contenders: Sequence[str],
    seeds: int,
    workspace: Workspace,
    folder: Path,
    announce: Callable[[str], None],
    questions_path: Path | None = None,
    split: str = "validation",
) -> dict[str, Any]:
    """See ``uae.experiments.contenders.compare``.

    Args:
        questions_path: None: the workspace's.
        contenders: ``NAME: KEY=VALUE ...``, parameters of train, utility or fusion; or an objective's name alone. Empty: all
            objectives.
        seeds: how many, counted from the parameter file's.
        split: whose questions measure.

    Raises:
        ConfigError: a contender cannot be read, or two have one name.
    """
    from uae.experiments.contenders import compare
    from uae.measures.statistics import Resampling
    from uae.retrievers.prompts import base_encoder
    from uae.vectors.store import VectorStore

    settings = load_settings(params, overrides)
    entered = []
    for text in contenders or OBJECTIVES:
        name, changes = parse_contender(text)
        entered.append(contender_of(name, load_settings(params, [*overrides, *changes])))
    names = [contender.name for contender in entered]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"two contenders have the name {sorted(twice)[0]!r}: give each its own")
    p = CompareParameters.of(settings)
    common = TrainParameters.of(settings)
    return compare(
        data=training_data(common, workspace, questions_path or workspace.path("questions")),
        base_path=base_encoder(p.student, p.student_prompts, workspace.model_cache),
        folder=folder,
        contenders=entered,
        seeds=range(p.seed, p.seed + seeds),
        more=more_labels(common, workspace, folder / "refreshed_labels"),
        split=split,
        cutoffs=p.evaluate.cutoffs,
        resampling=Resampling(p.evaluate.confidence, p.evaluate.resamples, p.seed),
        device=p.device,
        announce=announce,
        vectors=VectorStore(workspace.vectors),
    )


def contender_of(name: str, settings: Settings) -> "Contender":
    """The recipe of these settings, under a name."""
    from uae.experiments.contenders import Contender
    from uae.measures.fusion import Fusion

    p, how = TrainParameters.of(settings), settings.fusion
    fusion = None if how.weight is None else Fusion(how.form, how.weight)
    return Contender(name, p.train, p.utility.temperature, p.utility.aggregation(), fusion)


def parse_contender(text: str) -> tuple[str, list[str]]:
    """A contender's name and its overrides.

    Raises:
        ConfigError: it is neither an objective nor ``NAME: KEY=VALUE ...``, or changes what all must have in common.
    """
    name, colon, changes = (part.strip() for part in text.partition(":"))
    if not colon and name in OBJECTIVES:
        return name, [f"train.objective={name}"]
    keys = changes.split()
    if not name.replace("-", "").replace("_", "").isalnum() or not keys:
        raise ConfigError(
            f"--contender {text!r}: expected 'NAME: KEY=VALUE ...' or one of the objectives {', '.join(OBJECTIVES)}"
        )
    if foreign := [key for key in keys if not key.startswith(("train.", "utility.", "fusion."))]:
        raise ConfigError(
            f"--contender {text!r}: {foreign[0]} is the same for all; use --set, or a key of train, utility or fusion"
        )
    return name, keys
