"""The options of training: the keys of ``train`` in params.yaml. The functions that use them take these models; nothing copies.

A new option is one field here and one line in params.yaml. Importing this file imports no torch.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from uae.io.options import Count, Fraction, NearDuplicate, Options, Positive
from uae.training.objectives import OBJECTIVES
from uae.training.objectives.contract import Objective
from uae.training.objectives.utility_infonce import UtilityInfoNCE

if TYPE_CHECKING:
    ObjectiveName = str

    class ObjectiveParameters(Options): ...
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]
    # One section for each objective that has parameters.
    ObjectiveParameters = create_model(
        "ObjectiveParameters",
        __base__=Options,
        **{name: (kind, ...) for name, kind in OBJECTIVES.items() if kind.model_fields},
    )

# Of the steps of training. auto: half precision on a GPU, float32 elsewhere.
Precision = Literal["auto", "float32", "bfloat16"]

# Where full batches would make fewer steps an epoch, they are smaller: one or two, the first still warming up, teach nothing.
_LEAST_STEPS = 6
_LEAST_QUESTIONS = 4  # but a batch has as many, for negatives beside a question's own candidates


class RefreshOptions(Options):
    """See ``uae.training.refresh``."""

    rounds: Annotated[int, Field(ge=0)]  # after how many of the first epochs; 0: never
    top_k: Count  # passages of the student's ranking


class RewardOptions(Options):
    """How the reward model is fitted, and how much of its scores is taken; see ``uae.training.reward``."""

    share: Fraction
    folds: Annotated[int, Field(ge=2)]
    epochs: Count
    batch_size: Count  # questions, each with all its judged passages
    learning_rate: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    precision: Precision


class MatryoshkaOptions(Options):
    """At which dimensions, beside the full one, the objective is taken; see ``uae.training.loss``."""

    dimensions: tuple[Count, ...]
    weights: tuple[Positive, ...]  # of the dimensions; empty: 1 each

    @model_validator(mode="after")
    def _has_a_weight_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.dimensions):
            raise ValueError("weights: give one for each dimension, or none")
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions: each must stand once")
        return self

    def weighted(self) -> dict[int, float]:
        """dimension -> weight, as given."""
        return dict(zip(self.dimensions, self.weights or [1.0] * len(self.dimensions), strict=True))


class LearningOptions(Options):
    """How any model is fitted to questions, each with its passages; early stopping goes by the validation questions."""

    epochs: Count
    batch_size: Count  # questions; fewer where there are few: see ``for_questions``
    gradient_accumulation: Count
    learning_rate: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    evaluations_per_epoch: Count
    patience: Count
    precision: Precision

    def for_questions(self, questions: int) -> Self:
        """With smaller batches where so few train questions would make less than six steps an epoch."""
        enough = max(_LEAST_QUESTIONS, questions // (_LEAST_STEPS * self.gradient_accumulation))
        return self.model_copy(update={"batch_size": min(self.batch_size, enough)})

    def fit_facts(self) -> dict[str, Any]:
        """What decides how a model is fitted, for a hash."""
        return self.model_dump(mode="json")


class SecondStageOptions(LearningOptions):
    """How the second stage is fitted; see ``uae.training.second_stage``."""


class FitOptions(LearningOptions):
    """How a student is fitted to examples; see ``uae.training.fit``."""

    objective: ObjectiveName
    objectives: ObjectiveParameters
    towers: Literal["both", "query", "adapter"]
    student_temperature: Positive  # of cosine similarities
    in_batch_negatives: bool
    lexical_weight: Annotated[
        float, Field(ge=0, le=100)
    ]  # of BM25 beside the cosines that are trained; see ``uae.training.lexical``
    matryoshka: MatryoshkaOptions
    passage_queries: Annotated[float, Field(ge=0, le=4)]  # for each question
    sharded: bool  # whether several processes cut the weights among them; see ``uae.training.sharded``
    base_share: Fraction  # of the base's weights in the student that is kept; see ``uae.training.interpolation``

    def chosen_objective(self) -> Objective:
        """The objective with its parameters."""
        own: Objective | None = getattr(self.objectives, self.objective, None)
        return OBJECTIVES[self.objective]() if own is None else own

    def fit_facts(self) -> dict[str, Any]:
        """The other objectives' parameters decide nothing, and neither does who holds the weights."""
        own = self.model_dump(mode="json", include=set(FitOptions.model_fields) - {"objectives", "sharded"})
        return own | {"parameters": self.chosen_objective().model_dump(mode="json")}


class TrainOptions(FitOptions):
    """All of ``train``: how a student is fitted, and what of the labels it is fitted to."""

    processes: Count  # that train together on this machine; see ``uae.training.processes``
    calibrate_temperature: bool
    near_duplicate: NearDuplicate | None
    harmful_are_negatives: bool
    least_best_utility: float | None  # nats per token
    refresh: RefreshOptions
    reward: RewardOptions
    second_stage: SecondStageOptions  # read where models.second_stage names a model
    rivals: tuple[ObjectiveName, ...]

    @model_validator(mode="after")
    def _utilities_are_smoothed_once(self) -> Self:
        if self.reward.share and self.refresh.rounds:
            raise ValueError("reward.share, refresh.rounds: use one of them; new pairs would have the reward model fitted anew")
        return self

    @model_validator(mode="after")
    def _all_processes_encode_at_once(self) -> Self:
        """Where the weights are cut, one process cannot encode alone."""
        if self.sharded and self.towers != "both":
            raise ValueError("sharded: it is for towers: both. The other towers train a part that any process holds")
        if self.sharded and self.refresh.rounds:
            raise ValueError("sharded, refresh.rounds: use one of them; the leading process alone ranks passages for the teacher")
        return self

    def of_utilities(self) -> Self:
        """The same options with Utility-Modulated InfoNCE of utilities alone: no evidence label is read."""
        parameters = self.objectives.model_copy(update={"utility_infonce": UtilityInfoNCE(evidence_share=0.0)})
        return self.model_copy(update={"objective": "utility_infonce", "objectives": parameters})

    def rival(self, objective: str) -> Self:
        """The same options with another objective."""
        return self.model_copy(update={"objective": objective})
