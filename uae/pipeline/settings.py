"""params.yaml as frozen models. Loaded at the entry points only; inner functions take plain arguments or their own options.

There are no defaults here: params.yaml is the one place where a value stands, and a missing key is an error.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from uae.corpus.adapters import ADAPTERS
from uae.drift.options import DriftOptions
from uae.execution.options import ExecutionOptions
from uae.io.errors import ConfigError, without_user_info
from uae.io.options import Count, Fraction, NearDuplicate, Options, Positive
from uae.retrievers.prompts import Prompts
from uae.text.passage_template import PassageTemplate
from uae.training.options import TrainOptions

Scope = Literal["document", "corpus"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class ComputeSettings(Options):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]


class ModelSettings(Options):
    student: str
    student_prompts: Prompts | None
    second_stage: str | None
    reader: str
    held_out: str | None


class SplitSettings(Options):
    train: Fraction
    validation: Fraction
    test: Fraction

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        return self


class IngestSettings(Options):
    path: Annotated[str, Field(pattern=r"\S")]
    format: str
    max_documents: Count | None
    skip_empty: bool
    passage_words: Annotated[int, Field(ge=20, le=2000)]
    repeated_questions: Literal["stop", "drop_training_copy"]
    split: SplitSettings

    @field_validator("format")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in ADAPTERS:
            raise ValueError(f"the formats are {', '.join(ADAPTERS)}")
        return name


class SourceSettings(Options):
    quiet_s: Annotated[float, Field(ge=0)]
    max_lost_share: Fraction


class RetrainSettings(Options):
    min_documents: Count
    min_readings: Count
    budget_readings: Count | None


class PassageSettings(Options):
    template: str

    @field_validator("template")
    @classmethod
    def _can_be_filled(cls, value: str) -> str:
        try:
            PassageTemplate(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value


class QuestionCounts(Options):
    train: Count
    validation: Count
    test: Count


class ValidateSettings(Options):
    min_words_per_passage: Annotated[int, Field(ge=1)]
    min_questions: QuestionCounts
    require_answers: bool
    near_duplicate: NearDuplicate


class CandidateSettings(Options):
    top_k: Count
    bm25_top_k: Annotated[int, Field(ge=0)]
    holding_answer: Annotated[int, Field(ge=0)]
    random: Annotated[int, Field(ge=0)]
    gold: bool


class TemplateSettings(Options):
    passage: str
    question: str
    answer: str
    chat: bool

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for field in ("passage", "answer"):  # of the question's, the method decides
            if getattr(self, field).count("{" + field + "}") != 1:
                raise ValueError(f"{field}: must contain {{{field}}} exactly once")
        return self


class ServerSettings(Options):
    url: Annotated[str, Field(pattern=r"^https?://")]
    concurrency: Count
    timeout_s: Positive
    batch_pairs: Count
    api: Literal["completions", "chat"]
    top_logprobs: Annotated[int, Field(ge=2, le=20)]


class TeacherSettings(Options):
    model: str
    server: ServerSettings | None
    method: Literal["answer_likelihood", "query_likelihood", "judgement"]
    grades: Annotated[tuple[str, ...], Field(min_length=2)] | None
    weight: Positive
    templates: Annotated[tuple[TemplateSettings, ...], Field(min_length=1)]
    check_templates: tuple[TemplateSettings, ...]

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        if (self.method == "judgement") != (self.grades is not None):
            raise ValueError("grades: a judgement needs them, worst first (['No', 'Yes']); the other methods take null")
        if self.grades is not None and len({grade.strip() for grade in self.grades}) < len(self.grades):
            raise ValueError("grades: each must stand once")
        for template in (*self.templates, *self.check_templates):
            if template.question.count("{question}") != (0 if self.method == "query_likelihood" else 1):
                raise ValueError(
                    "templates: question must contain {question} exactly once, but not where method is query_likelihood: "
                    "there the question is what is scored, in place of {answer}"
                )
        return self

    @model_validator(mode="after")
    def _fits_its_server(self) -> Self:
        if self.server is None or self.server.api != "chat":
            return self
        if self.grades is None:
            raise ValueError(
                "server: a chat endpoint gives log-probabilities of what it answers, not of a text that is put to it. "
                "With api: chat method must be judgement"
            )
        if len(self.grades) > self.server.top_logprobs:
            raise ValueError("server: top_logprobs must not be below the number of grades")
        if not all(template.chat for template in (*self.templates, *self.check_templates)):
            raise ValueError(
                "templates: a chat endpoint puts each prompt into the model's chat template. With api: chat set chat to true"
            )
        return self


class LabelSettings(Options):
    answers_per_question: Count
    check_questions: Annotated[int, Field(ge=0)]
    batch_tokens: Annotated[int, Field(ge=64)] | None
    memory_mb: Annotated[int, Field(ge=64)] | None
    compile: bool
    readings_per_part: Count


class UtilitySettings(Options):
    answers: Literal["mean", "best"]
    templates: Literal["mean", "median"]
    teachers: Literal["none", "zscore", "minmax"]
    temperature: Positive

    def aggregation(self) -> dict[str, str]:
        """How readings become utilities: the last arguments of ``uae.teacher.utility.utilities``."""
        return self.model_dump(exclude={"temperature"})


class FusionSettings(Options):
    form: Literal["auto", "scores", "ranks", "none"]
    weight: Annotated[float, Field(ge=0, le=100)] | None
    folds: Annotated[int, Field(ge=0, le=20)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds: 2 or more, or 0, for the validation questions alone to choose")
        if self.weight is not None and self.form in ("auto", "none"):
            raise ValueError(
                f"weight: with form={self.form} it is chosen, or there is none: set form to scores or ranks, or weight to null"
            )
        return self


class UsefulSettings(Options):
    least_utility: Annotated[float, Field(ge=0)] | Literal["chance"] | None
    least_probability: Annotated[float, Field(gt=0, lt=1)]


class SecondStageSettings(Options):
    depth: Count
    weight: Annotated[float, Field(ge=0)] | None
    serving: Literal["auto", "onnx_int8", "onnx_int8_mixed", "onnx", "torch"]
    min_correlation: Fraction


class IndexSettings(Options):
    factory: str
    recall_target: Annotated[float, Field(gt=0, le=1)]
    memory_mb: Count | None
    changed_share: Fraction
    serving: Literal["auto", "onnx_int8", "onnx_int8_mixed", "onnx", "torch"]
    max_recall_loss: Fraction
    min_cosine: Fraction
    dimension: Count | None
    base: bool


class LlmSettings(Options):
    questions: Annotated[int, Field(ge=0)]
    top_k: Count
    window: Annotated[int, Field(ge=2, le=52)]
    timed_queries: Annotated[int, Field(ge=0)]
    query_template: TemplateSettings

    @model_validator(mode="after")
    def _scores_the_question(self) -> Self:
        if "{question}" in self.query_template.question:
            raise ValueError("query_template: question must not contain {question}: it is what is scored, in place of {answer}")
        return self


class CollectionSettings(Options):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    data: Path
    scope: Scope


class EvaluateSettings(Options):
    cutoffs: Annotated[tuple[Count, ...], Field(min_length=1)]
    reader_passages: Annotated[tuple[Count, ...], Field(min_length=1)]
    reader_orders: Annotated[tuple[Literal["best_first", "best_at_both_ends"], ...], Field(min_length=1)]
    reader_questions: Count | None
    reader_more_questions: Annotated[int, Field(ge=0)]
    reader_chat: bool
    held_out_chat: bool
    reader_new_tokens: Count
    reader_batch_size: Count
    llm: LlmSettings
    also: tuple[CollectionSettings, ...]
    resamples: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]

    @field_validator("reader_passages", "reader_orders")
    @classmethod
    def _stand_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("each must stand once")
        return values

    @field_validator("also")
    @classmethod
    def _names_stand_once(cls, values: tuple[CollectionSettings, ...]) -> tuple[CollectionSettings, ...]:
        if len({each.name for each in values}) < len(values):
            raise ValueError("each name must stand once")
        return values


class PromoteSettings(Options):
    # What MLflow's filters and addresses can hold; it would be refused only when all else is done.
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    alias: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=200)]
    metric: str
    min_gain: float
    guarded: tuple[str, ...]
    max_loss: Annotated[float, Field(ge=0)]
    great_loss: Annotated[float, Field(ge=0)]
    max_answer_loss: Annotated[float, Field(ge=0)]
    max_slowdown: Positive | None
    max_loss_elsewhere: Fraction | None
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    error_budget: Annotated[float, Field(gt=0, lt=1)]
    recent_documents: Annotated[int, Field(ge=2)]
    min_cosine: Fraction
    max_serving_loss: Fraction
    max_index_loss: Fraction

    @model_validator(mode="after")
    def _alias_is_free(self) -> Self:
        if re.fullmatch(r"latest|[vV]\d+", self.alias):
            raise ValueError("alias: MLflow keeps latest and v1, v2, ... for itself; take another")
        return self


class PackageSettings(Options):
    bento: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class TrackingSettings(Options):
    uri: str
    experiment: str


class Settings(Options):
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    scope: Scope
    compute: ComputeSettings
    execution: ExecutionOptions
    models: ModelSettings
    teachers: Annotated[dict[Name, TeacherSettings], Field(min_length=1)]
    source: SourceSettings
    retrain: RetrainSettings
    ingest: IngestSettings
    passages: PassageSettings
    validate_: Annotated[ValidateSettings, Field(alias="validate")]
    candidates: CandidateSettings
    label: LabelSettings
    utility: UtilitySettings
    train: TrainOptions
    fusion: FusionSettings
    useful: UsefulSettings
    index: IndexSettings
    second_stage: SecondStageSettings
    evaluate: EvaluateSettings
    promote: PromoteSettings
    package: PackageSettings
    tracking: TrackingSettings
    drift: DriftOptions

    def value(self, key: str) -> Any:
        """The value under a dotted key of params.yaml: a section, or one parameter."""
        found: Any = self
        for name in key.split("."):
            found = getattr(found, "validate_" if name == "validate" else name)
        return found

    @model_validator(mode="after")
    def _the_student_is_served_as_it_is_trained(self) -> "Settings":
        if self.train.lexical_weight and self.fusion.form in ("none", "ranks"):
            raise ValueError(
                f"train.lexical_weight: the student learns what BM25 lacks in a sum of scores, and "
                f"fusion.form={self.fusion.form} serves no such sum: set fusion.form to auto or scores, or lexical_weight to 0"
            )
        return self

    @model_validator(mode="after")
    def _the_gate_can_measure(self) -> "Settings":
        """The champion is measured anew: by retrieval, and by what the reader answers from its passages."""
        from uae.measures.answers import ANSWER_METRICS
        from uae.measures.metrics import retrieval_metric_names

        retrieval = retrieval_metric_names(self.evaluate.cutoffs)
        if self.promote.metric in ANSWER_METRICS:
            said = f"promote.metric: {self.promote.metric} is of answers, which few questions have; it can be guarded"
            raise ValueError(f"{said}. Take one of {', '.join(retrieval)}")
        known = [*retrieval, *ANSWER_METRICS]
        asked: dict[str, Sequence[str]] = {"promote.metric": [self.promote.metric], "promote.guarded": self.promote.guarded}
        for key, names in asked.items():
            for name in names:
                if name not in known:
                    listed = f"the gate measures {', '.join(known)} (recall@k for each k of evaluate.cutoffs)"
                    cut = re.fullmatch(r"recall@([1-9]\d*)", name)
                    hint = f"; add {cut[1]} to evaluate.cutoffs" if cut else _hint(name, known)
                    raise ValueError(f"{key}: there is no metric {name!r}{hint}; {listed}")
        return self


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_settings(path: Path, overrides: Iterable[str] = ()) -> Settings:
    """Read params.yaml, apply ``KEY=VALUE`` overrides (dotted keys, YAML values), check everything.

    Raises:
        ConfigError: the file is missing or broken, a key is unknown or missing, a value is impossible.
    """
    try:
        values = _parse(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run from the project's folder, or name a file with --params") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no parameters: expected one section a stage")
    for override in overrides:
        _apply(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_explain(e, values) for e in error.errors())) from None


def dump_settings(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(by_alias=True, mode="json")


def _parse(text: str) -> Any:
    """The value of YAML ``text``. Raises a ValueError for whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # PyYAML's converters raise the latter three
        raise ValueError(str(error)) from None


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    override = _without_password(override)
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, for example --set train.epochs=1")
    *parents, last = key.split(".")
    target = values
    for name in (*parents, last):
        if not isinstance(target, dict) or name not in target:
            raise ConfigError(f"--set {override}: there is no parameter {key}{_hint(key, _leaves(values))}")
        if name is not last:
            target = target[name]
    try:
        value = _parse(text)
        # A command line has no remarks: what stands after " #" is a part of the value, such as a folder's name.
        target[last] = text.strip() if isinstance(value, str) and text.strip().startswith(f"{value} ") else value
    except ValueError:
        raise ConfigError(f"--set {override}: the value is not YAML; put it in quotes") from None


def _explain(error: ErrorDetails, values: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if not key:  # it concerns several sections: the message names them, and the value would be the whole file
        return str(error["msg"].removeprefix("Value error, "))
    if error["type"] == "extra_forbidden":
        return f"there is no parameter {key}{_hint(key, _known_keys())}"
    if error["type"] == "missing":
        return f"{key} is missing"
    value = error["input"]
    if key.endswith(".url") and isinstance(value, str):
        value = value.rpartition("@")[2]  # also where it lacks the https:// of an address
    quotes = (
        "; in YAML { begins a mapping: put the value in quotes" if (error["type"], type(value)) == ("string_type", dict) else ""
    )
    return f"{key}: {error['msg'].removeprefix('Value error, ')} (it is {_without_password(repr(value))}){quotes}"


def _without_password(text: str) -> str:
    """``text`` for a message: what stands before the @ of an address may be a password."""
    return without_user_info(re.sub(r"""(//|'url': ['"])[^'"\s]*@""", r"\1", text))


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterable[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")


def _known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, key + ".")
