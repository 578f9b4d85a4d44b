"""From the label-quality figures to plain words: what is wrong, what to do, and whether to go on to training."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

WORTH_IT, DOUBTFUL, NOT_WORTH_IT = "worth it", "doubtful", "not worth it"


Report = dict[str, Any]  # as assess.py makes it
Finding = dict[str, str]  # ``code`` and ``text``


class Threshold(NamedTuple):
    value: float
    meaning: str
    reason: str  # shown in the report: a figure that decides must be open to dispute


FEWEST_QUESTIONS = Threshold(
    50,
    "questions that a figure must rest on before it counts",
    "with fewer, the 95% interval of a share near one half is wider than 14 points to either side",
)
FEWEST_READ_TWICE = Threshold(
    20,
    "questions read under two prompts before their agreement counts",
    "a mean of 20 rank correlations is good to about 0.2 to either side; to read everything twice would double the cost",
)
SMALL_GAIN = Threshold(
    0.02,
    "MAP that the labels must add to the base encoder's",
    "a student seldom gets past its teacher, and evaluation on some hundred questions cannot see a smaller gain",
)
LOW_AGREEMENT = Threshold(
    0.5,
    "mean rank correlation between two prompts",
    "below it, two prompts share less than a quarter of the variance of the passages' ranks: most of a label is wording",
)
NO_AGREEMENT = Threshold(
    0.2,
    "mean rank correlation below which labels without evidence are taken for noise",
    "two prompts then share less than a twentieth of the variance of the ranks, and nothing else speaks for the labels",
)
LENGTH_DEPENDENCE = Threshold(
    0.3,
    "rank correlation with the answer's length, to either side, and significant",
    "the usual bound between a weak and a medium effect; weaker ones are found in nearly every data set",
)
NO_PASSAGE_HELPS = Threshold(
    1 / 3,
    "share of questions that no passage helps",
    "their weights still add up to one: a third of the training would pull towards passages that do not help",
)
REPEATS_EVIDENCE = Threshold(
    0.05,
    "weight outside the evidence, where the teacher's best passage is evidence",
    "below it the loss differs from InfoNCE on the evidence by less than a twentieth of its weight",
)
SAYS_NOTHING = Threshold(
    0.95,
    "entropy of the weights, as a share of the largest possible one",
    "of two passages the better one then weighs less than 0.63; eight passages count as more than seven equal ones",
)
ROUNDING = Threshold(
    0.1,
    "share of questions whose passages differ by no more than the rounding of the teacher's number format",
    "their weights are rounding: with a tenth of the questions, that is as much as a student may be expected to average out",
)
ROUNDING_IN_WEIGHTS = Threshold(
    math.e,
    "times that rounding alone may make one passage weigh more than another of the same worth",
    "beyond it the temperature lies below the rounding, and the sharpest weights are made by it",
)
THRESHOLDS = (
    FEWEST_QUESTIONS, FEWEST_READ_TWICE, SMALL_GAIN, LOW_AGREEMENT, NO_AGREEMENT,
    LENGTH_DEPENDENCE, NO_PASSAGE_HELPS, REPEATS_EVIDENCE, SAYS_NOTHING, ROUNDING, ROUNDING_IN_WEIGHTS,
)  # fmt: skip

# MAP decides, not the best of three metrics: it uses the whole order, and to pick the winner afterwards is to fool oneself.
_DECIDING = "map"


def weigh(report: Report) -> Report:
    """Warnings, verdict, its basis and a summary, from the other parts of ``assess``'s report.

    With evidence in enough questions the labels must rank it better than the base encoder does. Without, the verdict rests on
    the labels alone: that prompts agree, that passages help, that weights differ. Then one failure is doubtful, two are too many,
    and labels that nothing can check are never "worth it".

    Returns:
        ``warnings``, each {"code", "text"}; ``verdict``, one of "worth it", "doubtful", "not worth it"; ``basis``, one of
        "evidence", "labels alone", "too few questions"; ``summary``, one or two sentences.
    """
    warnings = [
        *_about_numbers(report), *_about_ranking(report), *_about_agreement(report),
        *_about_length(report), *_about_help(report), *_about_grading(report), *_about_noise(report),
    ]  # fmt: skip
    verdict, basis, summary = _verdict(report, {warning["code"] for warning in warnings})
    return {"warnings": warnings, "verdict": verdict, "basis": basis, "summary": summary}


def _verdict(report: Report, codes: set[str]) -> tuple[str, str, str]:
    labelled = report["questions"]["labelled"]
    if "too_few_questions" in codes:
        return DOUBTFUL, "too few questions", f"Nobody can tell yet: {labelled} labelled questions are too few to judge by."
    if not _enough(report["ranking"]):
        return _without_evidence(report, codes)
    basis, compared = "evidence", _compared(report["ranking"])
    if "no_better_than_base" in codes:
        return NOT_WORTH_IT, basis, f"The labels find the evidence no better than the base encoder already does: {compared}."
    if "small_gain" in codes:
        return DOUBTFUL, basis, f"The labels find the evidence better than the base encoder does, but hardly: {compared}."
    found = f"The labels find the evidence better than the base encoder does: {compared}."
    if "repeats_evidence" in codes:
        return DOUBTFUL, basis, f"{found} But they say little that the evidence does not say by itself."
    if "says_nothing" in codes:
        return DOUBTFUL, basis, f"{found} But at this temperature a student would hardly see a difference between the passages."
    return WORTH_IT, basis, f"{found} A student has something to learn from them."


def _without_evidence(report: Report, codes: set[str]) -> tuple[str, str, str]:
    basis = "labels alone"
    agreement = _agreement(report)
    faults = {
        "templates_disagree": "the prompts disagree",
        "teachers_disagree": "the teachers disagree",
        "no_passage_helps": "too often no passage helps",
        "says_nothing": "the weights hardly differ",
    }
    found = [text for code, text in faults.items() if code in codes]
    unchecked = f"There is {'not enough' if report['ranking'] else 'no usable'} evidence to check the labels against"
    if agreement is not None and agreement < NO_AGREEMENT.value:
        return NOT_WORTH_IT, basis, f"{unchecked}, and two readings of the same pairs have little in common: mostly noise."
    if len(found) > 1:
        return NOT_WORTH_IT, basis, f"{unchecked}, and the labels themselves look bad: {' and '.join(found)}."
    if found:
        return DOUBTFUL, basis, f"{unchecked}, and {found[0]}."
    if report["ranking"]:
        return DOUBTFUL, basis, f"{unchecked}. Nothing speaks against them, but the few questions with evidence cannot decide."
    if agreement is None:
        return DOUBTFUL, basis, f"{unchecked}, and no second prompt either: nothing speaks against them, and nothing for them."
    held = f"readings of the same pairs agree (rank correlation {agreement:.2f}), passages help, and the weights differ"
    return WORTH_IT, basis, f"{unchecked}, but they hold together: {held}. Reliable is not yet right: read the examples."


def _about_numbers(report: Report) -> Iterator[Finding]:
    labelled, ranking = report["questions"]["labelled"], report["ranking"]
    fewest = FEWEST_QUESTIONS.value
    if labelled < fewest:
        yield _warning(
            "too_few_questions",
            f"Only {labelled} questions are labelled; below {fewest} every figure here is a guess. Label more before deciding.",
        )
    elif ranking and not _enough(ranking):
        yield _warning(
            "few_with_evidence",
            f"Evidence can judge the labels of only {ranking['questions']} of {labelled} questions; it takes {fewest}. Mark the "
            "evidence of more questions; until then the verdict rests on the labels alone.",
        )
    elif not ranking and _agreement(report) is None:
        yield _warning(
            "unchecked",
            f"Nothing here checks the labels: there is no usable evidence, and fewer than {FEWEST_READ_TWICE.value} questions "
            "were read under a second prompt. Add a check template, raise label.check_questions, or mark the evidence of some "
            "questions.",
        )


def _about_ranking(report: Report) -> Iterator[Finding]:
    ranking = report["ranking"]
    if not _enough(ranking):
        return
    metric, auc = ranking["metrics"][_DECIDING], ranking["metrics"]["auc"]["utility"]
    gain, p_value = metric["gain"]["absolute"]["mean"], metric["gain"]["p_value"]
    if p_value >= 1 - report["settings"]["confidence"] or gain <= 0:
        how = "worse than" if gain < 0 and p_value < 1 - report["settings"]["confidence"] else "not measurably better than"
        yield _warning(
            "no_better_than_base",
            f"Distillation is not worth it on this data: the labels rank the evidence {how} the base encoder does "
            f"({_compared(ranking)}). Try a larger teacher or the mean of several templates (teachers in "
            "params.yaml), or train on the evidence directly.",
        )
    elif gain < SMALL_GAIN.value:
        yield _warning(
            "small_gain",
            f"The labels rank the evidence only a little better than the base encoder does ({_compared(ranking)}). A student "
            "seldom gets past its teacher: try a larger one before spending time on training.",
        )
    if auc["low"] <= 0.5:
        yield _warning(
            "no_better_than_chance",
            f"Given an evidence passage and another one, the labels prefer the evidence in {auc['mean']:.0%} of the cases "
            f"({_interval(auc, '.0%')}); tossing a coin gives 50%. Look at the examples: the teacher may be too small for these "
            "texts, or the evidence wrong.",
        )


def _about_agreement(report: Report) -> Iterator[Finding]:
    for field, code, what, advice in (
        ("templates", "templates_disagree", "Two prompts", "Train on the mean of several templates"),
        ("teachers", "teachers_disagree", "Two teachers", "Find out which one ranks the evidence better and train on that"),
    ):
        overall = (report["agreement"] or {}).get(field)
        if overall and _enough(overall, FEWEST_READ_TWICE) and overall["spearman"] < LOW_AGREEMENT.value:
            yield _warning(
                code,
                f"{what} order the same passages differently: their mean rank correlation is {overall['spearman']:.2f} (1 is the "
                f"same order, 0 no relation; {overall['questions']} questions). At this temperature they put "
                f"{overall['shared_weight']:.0%} of the training weight on the same passages. {advice}, or take a "
                "larger teacher (teachers in params.yaml).",
            )


def _about_length(report: Report) -> Iterator[Finding]:
    length = report["length"]
    names = {"best": "best utility", "spread": "spread of the utilities", "recall@1": "labels' Recall@1"}
    strong = [
        f"the {name} ({length[field]['spearman']:+.2f})"
        for field, name in names.items()
        if _enough(length[field])
        and abs(length[field]["spearman"]) >= LENGTH_DEPENDENCE.value
        and length[field]["p_value"] < 1 - report["settings"]["confidence"]
    ]
    if strong:
        yield _warning(
            "length_dependence",
            f"The labels depend on how long a question's answer is: rank correlation of its tokens with {' and '.join(strong)}. "
            "See the table by length: where Recall@1 is low, shorten those answers or leave the questions "
            "out; where only the spread differs, those questions merely get flatter or sharper weights.",
        )


def _about_help(report: Report) -> Iterator[Finding]:
    without = report["help"]["no_passage_helps"]
    if _enough(report["help"]) and without["share"] > NO_PASSAGE_HELPS.value:
        yield _warning(
            "no_passage_helps",
            f"In {without['share']:.0%} of the questions ({_interval(without, '.0%')}) no passage makes the answer likelier. The "
            "teacher may know the answers already, the right passages may be missing (candidates.top_k), or the answers may "
            "not be in the corpus: read some of these questions, and leave them out if so.",
        )


def _about_grading(report: Report) -> Iterator[Finding]:
    grading = report["grading"]
    outside, best_is_gold = grading["outside_gold_where_best_is_gold"], grading["best_is_gold"]
    entropy = grading["normalised_entropy"]
    counts = report["questions"]
    # A teacher that often contradicts the evidence does not repeat it. Where most questions have no evidence, labels that agree
    # with the little there is are the best news: they extend it.
    mostly = counts["with_evidence"] > counts["labelled"] / 2 and (best_is_gold or {"share": 0})["share"] > 0.5
    if _enough(outside) and mostly and outside["mean"] < REPEATS_EVIDENCE.value:
        yield _warning(
            "repeats_evidence",
            "The graded labels repeat the evidence labels: where the teacher's best passage is evidence "
            f"({best_is_gold['share']:.0%} of the questions), only {outside['mean']:.1%} of its weight lies elsewhere. Train on "
            "the evidence directly (InfoNCE) for the same effect, cheaper; or raise utility.temperature and look at the "
            "table of temperatures.",
        )
    if _enough(entropy) and entropy["mean"] > SAYS_NOTHING.value:
        yield _warning(
            "says_nothing",
            f"The labels say nearly nothing at this temperature ({report['settings']['temperature']:g}): the weights of a "
            f"question's passages are {entropy['mean']:.1%} as even as can be. Lower utility.temperature (see the table of "
            "temperatures); if the order is noise, that only makes the noise louder.",
        )


def _about_noise(report: Report) -> Iterator[Finding]:
    noise = report["noise"]
    if not noise or not noise["questions"]:
        return
    advice = "Read them in float32 (compute.dtype; a new label store), or raise utility.temperature."
    if noise["share"] > ROUNDING.value:
        yield _warning(
            "rounding",
            f"In {noise['share']:.0%} of the questions the passages differ by no more than the teacher's number format rounds "
            f"({noise['spread']:.2g} nats per token): their weights say nothing. {advice}",
        )
    elif noise["weight_ratio"] > ROUNDING_IN_WEIGHTS.value:
        yield _warning(
            "rounding",
            f"At this temperature ({report['settings']['temperature']:g}) the rounding of the teacher's number format "
            f"({noise['spread']:.2g} nats per token at worst) can make one passage weigh {noise['weight_ratio']:.1f} times as "
            f"much as another of the same worth. {advice}",
        )


def _enough(figure: Report | None, fewest: Threshold = FEWEST_QUESTIONS) -> bool:
    return figure is not None and figure["questions"] >= fewest.value


def _agreement(report: Report) -> float | None:
    """Of prompts if there are several, else of teachers; None where too few questions were read twice."""
    found = report["agreement"] or {}
    return next(
        (found[field]["spearman"] for field in ("templates", "teachers") if _enough(found.get(field), FEWEST_READ_TWICE)), None
    )


def _compared(ranking: Report) -> str:
    metrics = ranking["metrics"]
    gain = metrics[_DECIDING]["gain"]
    both = [f"{metrics[m]['utility']['mean']:.2f} against {metrics[m]['base']['mean']:.2f}" for m in (_DECIDING, "recall@1")]
    return (
        f"MAP {both[0]}, a difference of {gain['absolute']['mean']:+.3f} [{gain['absolute']['low']:+.3f}, "
        f"{gain['absolute']['high']:+.3f}], p {p_text(gain['p_value'])}; Recall@1 {both[1]}; {ranking['questions']} questions"
    )


def p_text(p_value: float) -> str:
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _interval(estimate: Report, form: str) -> str:
    return f"{estimate['low']:{form}} to {estimate['high']:{form}}"


def _warning(code: str, text: str) -> Finding:
    return {"code": code, "text": text}
