"""The gate: pure comparisons of a candidate with what it would replace, and of what is served with what was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from uae.evaluation.comparison import ONE_DOCUMENT
from uae.io.errors import ConfigError
from uae.measures.answers import ANSWER_METRICS
from uae.registry.budget import Look
from uae.registry.compared import ANSWERED, SHARED, Compared, Finding, QuestionSet, compare, pooled
from uae.release.parity import Parity, is_within

RECALL_AT = 10  # of the index against exact search
# With which a great loss is ruled out: 95 % lets one through now and then (docs/evaluation.md), and a gate is asked every week.
ALMOST_SURE = 0.9999
VERDICT = {True: "passed", False: "FAILED"}


@dataclass(frozen=True)
class Bounds:
    """What a candidate must gain and may lose: the keys of ``promote`` in params.yaml. All but the slowdown are absolute."""

    metric: str
    min_gain: float  # must be exceeded; -1 asks for none
    guarded: tuple[str, ...]
    max_loss: float  # of the metric and of each guarded one, by retrieval; 1 allows any
    great_loss: float  # of the metric: it is ruled out almost surely; refreshes in a row may lose less together; 1 allows any
    max_answer_loss: float  # as max_loss, of metrics of a reader's answers
    max_slowdown: float | None  # of the median query: the candidate's time over the champion's; None: it is not timed
    confidence: float  # with which a loss must be ruled out
    error_budget: float  # the chance that any look at one test set takes an equal candidate for a better one
    recent_documents: int  # from so many on the recent test set counts
    min_cosine: float  # of each question's vector as it is served with the trained encoder's
    max_serving_loss: float  # of Recall@1, by the vectors served
    max_index_loss: float  # of recall@10, by the index
    max_loss_elsewhere: float | None = None  # relative, of the untrained encoder's metrics in other collections; None: any

    def metrics(self) -> tuple[str, ...]:
        """All that are compared."""
        return tuple(dict.fromkeys((self.metric, *self.guarded)))

    def margin(self, name: str) -> float:
        """What the metric may lose."""
        return self.max_answer_loss if name in ANSWER_METRICS else self.max_loss

    def shows_gain(self, name: str) -> bool:
        """Whether a gain of the metric is one: a guarded metric of answers is only guarded."""
        return name == self.metric or name not in ANSWER_METRICS


class Decision(NamedTuple):
    passed: bool
    reasons: list[str]  # one sentence a rule
    findings: tuple[Finding, ...] = ()


def together(parts: Sequence[Decision]) -> Decision:
    """Passed if all parts did."""
    reasons = [reason for part in parts for reason in part.reasons]
    return Decision(all(part.passed for part in parts), reasons, tuple(each for part in parts for each in part.findings))


def decide_retrained(sets: Sequence[QuestionSet], reference_name: str, bounds: Bounds, look: Look) -> Decision:
    """Pass if no loss beyond its margin can be true, on any set, and chance does not explain a gain on at least one.

    Losses: the lower bound of each metric on each set, at ``bounds.confidence``. All must hold, so none is corrected. Gains: the
    look's level is shared by the metrics and sets that are compared (Bonferroni). Metrics of answers are compared on all answered
    questions. A loss of ``bounds.great_loss`` has to be ruled out almost surely, so few documents must show a large gain.

    Args:
        sets: that count, by retrieval, and the set of answered questions.

    Raises:
        ConfigError: a metric is one that neither set holds.
    """
    compared = {name: compare([each for each in sets if _is_for(each, name)], name) for name in bounds.metrics()}
    _require(bounds.metric, compared[bounds.metric], sets)
    tested = sum(len(found) for name, found in compared.items() if bounds.shows_gain(name))
    level = look.level / max(tested, 1)
    findings = [_finding(each, name, bounds, level) for name, found in compared.items() for each in found]
    reasons = [_loss_sentence(finding, reference_name, bounds) for finding in findings]
    unmeasured = [name for name, found in compared.items() if not found]
    reasons += [f"{name} was measured on no question: it is not guarded" for name in unmeasured]
    no_great_loss, said = _rule_out_great_loss([each for each in sets if _is_for(each, bounds.metric)], bounds)
    reasons += said
    gains = [finding for finding in findings if finding.p_value is not None]
    best = min(gains, key=lambda finding: finding.p_value or 0.0)
    gained = bounds.min_gain <= -1 or (best.p_value is not None and best.p_value <= level)
    reasons.append(_gain_sentence(best, gained, bounds, look, level, tested))
    reasons.append(_power_sentence(gains, level))
    if bounds.min_gain > -1:
        reasons += [_no_room(f.metric, reference_name, f.on) for f in gains if f.metric == bounds.metric and f.reference >= 1]
    kept = no_great_loss and all(finding.kept for finding in findings)
    return Decision(gained and kept, reasons, tuple(findings))


def decide_refreshed(shared: QuestionSet, reference_name: str, bounds: Bounds) -> Decision:
    """Pass if no loss beyond its margin can be true on the questions that both can answer. A gain is not asked for.

    A loss of ``bounds.great_loss`` has to be ruled out almost surely, as in a retraining.

    Raises:
        ConfigError: a metric is not one that both were measured by.
    """
    parts = _kept(shared, reference_name, bounds)
    no_great_loss, said = _rule_out_great_loss([shared], bounds, f"the {{}} {SHARED}")
    return Decision(parts.passed and no_great_loss, parts.reasons + said, parts.findings)


def decide_crept(shared: QuestionSet, trained_name: str, bounds: Bounds) -> Decision:
    """Pass if all refreshes since the encoder was trained have not lost ``bounds.great_loss`` together, by ``bounds.confidence``.

    Each of them may lose its margin against the one before, so the sum has no limit of its own.

    Args:
        shared: of the candidate and of the first release of this encoder.

    Raises:
        ConfigError: a metric is not one that both were measured by.
    """
    limit = max(bounds.great_loss, bounds.max_loss)
    decision = _kept(shared, f"{trained_name}, the first of this encoder", replace(bounds, max_loss=limit))
    if not decision.passed:
        decision.reasons.append(
            "refreshes have lost that much since the encoder was trained: retrain (make pipeline, dvc repro or uae run), or a "
            "person decides (uae rollback VERSION moves the alias to a version)"
        )
    return decision


def _kept(shared: QuestionSet, reference_name: str, bounds: Bounds) -> Decision:
    findings, reasons = [], []
    for name in bounds.metrics():
        if name in ANSWER_METRICS:
            continue  # same encoder, same reader: what it answers follows from what is found
        found = compare([shared], name)
        _require(name, found, [shared])
        for each in found:
            findings.append(_finding(each, name, bounds, None))
            reasons.append(_loss_sentence(findings[-1], reference_name, bounds))
    return Decision(all(finding.kept for finding in findings), reasons, tuple(findings))


def decide_latency(candidate_ms: float, reference_ms: float, queries: int, reference_name: str, bounds: Bounds) -> Decision:
    """Pass if the median query takes at most ``bounds.max_slowdown`` times what the reference takes, asked in turns."""
    if bounds.max_slowdown is None:
        return Decision(True, [])
    ratio = candidate_ms / reference_ms
    kept = is_within(ratio, bounds.max_slowdown)
    return Decision(
        kept,
        [
            f"a query takes {ratio:.2f} times the time of {reference_name} (median of {queries}, in turns; at most "
            f"{bounds.max_slowdown:g} times): {VERDICT[kept]}"
        ],
    )


def _rule_out_great_loss(
    sets: Sequence[QuestionSet], bounds: Bounds, asked: str = "all {} test questions"
) -> tuple[bool, list[str]]:
    """Whether the metric's lower bound over all these questions is above, and a sentence; none where any loss is allowed."""
    limit = max(bounds.great_loss, bounds.margin(bounds.metric))
    if limit >= 1:
        return True, []
    (found,) = compare([pooled(sets)], bounds.metric)
    low = found.difference.lower(ALMOST_SURE)
    kept = is_within(-low, limit)
    who = ONE_DOCUMENT if found.one_document else f"{found.difference.units} independent units"
    said = f"great loss: {bounds.metric} on {asked.format(found.questions)} ({who})"
    if found.unchanged:
        return kept, [f"{said}: {_no_difference(found.questions)} (must be above {-limit:+g}): {VERDICT[kept]}"]
    passes = max(found.difference.detectable(1 - ALMOST_SURE) - limit, 0.0)
    return kept, [
        f"{said} is with {ALMOST_SURE:.2%} confidence above {low:+.4f} (must be above {-limit:+g}; in 80 % of repetitions a true "
        f"gain of {passes:.3f} would be enough): {VERDICT[kept]}"
    ]


def _is_for(questions: QuestionSet, name: str) -> bool:
    return (questions.name == ANSWERED) == (name in ANSWER_METRICS)


def _require(name: str, found: Sequence[object], sets: Sequence[QuestionSet]) -> None:
    if not found:
        known = sorted({str(metric) for each in sets for metric in set(each.candidate) & set(each.reference)})
        raise ConfigError(f"promote: the gate has no metric {name!r}; it has {', '.join(known)}")


def _finding(each: Compared, name: str, bounds: Bounds, level: float | None) -> Finding:
    difference = each.difference
    margin, low = bounds.margin(name), difference.lower(bounds.confidence)
    gains = level is not None and bounds.shows_gain(name)
    return Finding(
        on=each.on,
        metric=name,
        questions=each.questions,
        units=difference.units,
        candidate=each.candidate,
        reference=each.reference,
        difference=difference.mean,
        low=low,
        margin=margin,
        kept=margin >= 1 or is_within(-low, margin),
        unchanged=each.unchanged,
        one_document=each.one_document,
        p_value=difference.p_value(bounds.min_gain) if gains else None,
        detectable=difference.detectable(level) + bounds.min_gain if gains and level is not None else None,
    )


def _loss_sentence(finding: Finding, reference_name: str, bounds: Bounds) -> str:
    change = f"{finding.difference:+.4f}, with {bounds.confidence:.0%} confidence above {finding.low:+.4f}"
    if finding.unchanged:  # nothing varies, so there is no error to be confident by
        change = _no_difference(finding.questions)
    return (
        f"{finding.metric} {finding.candidate:.4f} against {finding.reference:.4f} of {reference_name} on the {finding.on} "
        f"({change}; {_amount(finding)}; may fall by at most {finding.margin:g}): {VERDICT[finding.kept]}"
    )


def _no_difference(questions: int) -> str:
    return "the one difference is 0" if questions == 1 else f"all {questions} differences are 0"


def _amount(finding: Finding) -> str:
    if finding.one_document:
        return f"{finding.questions} questions, which {ONE_DOCUMENT}"
    units = f" of {finding.units} documents" if finding.units < finding.questions else ""
    return f"{finding.questions} questions{units}"


def _gain_sentence(best: Finding, gained: bool, bounds: Bounds, look: Look, level: float, tested: int) -> str:
    more = f" of more than {bounds.min_gain:g}" if bounds.min_gain else ""
    return (
        f"a gain{more} that chance does not explain, on at least one of {tested} comparisons: {best.metric} on the {best.on} has "
        f"p {best.p_value:.2g} (at most {level:.2g} each; this is look {look.number} at a test set whose looks share "
        f"{look.budget:g}): {VERDICT[gained]}"
    )


def _power_sentence(gains: Sequence[Finding], level: float) -> str:
    seen = ", ".join(f"{each.metric} {each.detectable:.3f} on the {each.on}" for each in gains)
    return f"smallest true gain that this look finds in 80 % of repetitions (at a level of {level:.2g}): {seen}"


def _no_room(metric: str, reference_name: str, on: str) -> str:
    return f"{metric} of {reference_name} is 1 already: no gain is possible on the {on}. Add harder questions"


def decide_better(
    candidate: Mapping[str, float], reference: Mapping[str, float], reference_name: str, bounds: Bounds
) -> Decision:
    """Pass if the metric rises by more than ``min_gain`` and no guarded one falls by more than ``max_loss``.

    Both mappings hold means over the same test questions.

    Raises:
        ConfigError: a metric is not one that both were measured by.
    """
    known = sorted(set(candidate) & set(reference))
    for name in (bounds.metric, *bounds.guarded):
        if name not in known:
            raise ConfigError(f"promote: the gate has no metric {name!r}; it has {', '.join(known)}")

    def sentence(name: str, rule: str, passed: bool) -> str:
        change = candidate[name] - reference[name]
        compared = f"{name} {candidate[name]:.4f} against {reference[name]:.4f} of {reference_name}"
        return f"{compared} ({change:+.4f}; {rule}): {VERDICT[passed]}"

    gain = candidate[bounds.metric] - reference[bounds.metric]
    passed = gain > bounds.min_gain and not is_within(gain, bounds.min_gain)
    reasons = [sentence(bounds.metric, f"must rise by more than {bounds.min_gain:g}", passed)]
    for name in bounds.guarded:
        kept = is_within(reference[name] - candidate[name], bounds.margin(name))
        passed = passed and kept
        reasons.append(sentence(name, f"may fall by at most {bounds.margin(name):g}", kept))
    if bounds.min_gain >= 0 and reference[bounds.metric] >= 1:
        reasons.append(_no_room(bounds.metric, reference_name, "test questions"))
    return Decision(passed, reasons)


def decide_serving(parity: Parity, index_recall: float, bounds: Bounds) -> Decision:
    """Pass if serving neither changes the questions' vectors nor loses Recall@1 or recall@10 beyond the bounds."""
    near = parity.cosine >= bounds.min_cosine
    lost = (parity.trained_recall or 0.0) - (parity.served_recall or 0.0)  # every test question has evidence: both are measured
    found = is_within(lost, bounds.max_serving_loss)
    exact = is_within(1 - index_recall, bounds.max_index_loss)
    return Decision(
        near and found and exact,
        [
            f"cosine {parity.cosine:.4f} or more of {parity.questions} questions' served vectors with the trained encoder's "
            f"(must be at least {bounds.min_cosine:g}): {VERDICT[near]}",
            f"recall@1 {parity.served_recall:.4f} by served vectors against {parity.trained_recall:.4f} by the trained encoder's "
            f"(may fall by at most {bounds.max_serving_loss:g}): {VERDICT[found]}",
            f"recall@{RECALL_AT} {index_recall:.4f} of the index against exact search (may lose at most "
            f"{bounds.max_index_loss:g}): {VERDICT[exact]}",
        ],
    )


def decide_second_stage(second: Mapping[str, float], first: Mapping[str, float], bounds: Bounds) -> Decision:
    """Pass if the second stage takes away from the promoted system no more than a guarded metric may lose.

    Args:
        second, first: means over the same test questions, with and without it.
    """
    reasons, passed = [], True
    for name in bounds.metrics():
        if name not in second:
            continue  # of a reader's answers: nobody has them from the second stage
        kept = is_within(first[name] - second[name], bounds.max_loss)
        passed = passed and kept
        reasons.append(
            f"{name} {second[name]:.4f} with the second stage against {first[name]:.4f} without it "
            f"({second[name] - first[name]:+.4f}; may fall by at most {bounds.max_loss:g}): {VERDICT[kept]}"
        )
    return Decision(passed, reasons)


def decide_whole(served: float, exact: float, bounds: Bounds, name: str = "the release") -> Decision:
    """Pass if a system of the release, as a service has it, loses no more Recall@1 than it may.

    Args:
        served: by the serving encoder, the index and BM25 together.
        exact: of the system as it was evaluated, by the trained encoder and exact search.
    """
    kept = is_within(exact - served, bounds.max_serving_loss)
    return Decision(
        kept,
        [
            f"recall@1 {served:.4f} of {name} as it is served against {exact:.4f} as it was evaluated (may fall by at most "
            f"{bounds.max_serving_loss:g}): {VERDICT[kept]}"
        ],
    )
