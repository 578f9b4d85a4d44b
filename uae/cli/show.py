"""What the command line prints at the end of a stage and of the chain."""

import json
from collections.abc import Container, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uae.io.errors import ArtefactError
from uae.io.files import read_json
from uae.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from uae.registry.history import Event
    from uae.release.collections.publish import Published
    from uae.release.collections.tables import Publication
    from uae.release.store import Installed, ReleaseStore
    from uae.vectors.store import Held

_METRICS = ("recall@1", "recall@5", "map", "mrr", "ndcg@10", "token_f1")
# Parts of a stage's counts that stand on one line.
_LISTED = ("skipped", "files", "questions_by_split", "repeated_questions_dropped", "candidates_by_source", "reasons")
_NAMES = {"map": "MAP", "mrr": "MRR", "ndcg@10": "nDCG@10", "token_f1": "answer token F1"}


def print_stage(name: str, result: dict[str, Any]) -> None:
    """A stage's counts on one line each; nested parts are in its report file."""
    console = Console(highlight=False)
    for key, value in result.items():
        if key in _LISTED or not isinstance(value, dict | list):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
            console.print(f"  {name}.{key}: {text}", markup=False, soft_wrap=True)


def print_vectors(held: "Sequence[Held]", used: Container[str], dropped: int) -> None:
    """A line an encoder of the vector store.

    Args:
        used: the encoders that something still uses.
        dropped: vectors that were just swept out.
    """
    console = Console(highlight=False)
    for encoder in held:
        said = "used" if encoder.encoder in used else "not used: uae vectors --sweep drops it"
        console.print(
            f"{encoder.encoder}  {encoder.vectors:>9,} vectors  {encoder.bytes / 1e6:>9,.1f} MB  {said}", soft_wrap=True
        )
    console.print(f"dropped: {dropped:,} vectors" if dropped else "nothing was dropped", soft_wrap=True)


def print_summary(workspace: Workspace, now: int | None) -> None:
    """The table of the last evaluation, the promotion and its reasons, where the artefacts are, what to do next.

    Args:
        now: the champion's version in the registry today; None: nobody knows.
    """
    console = Console(highlight=False, width=None if Console().is_terminal else 120)
    evaluation, promotion = read_json(workspace.path("evaluation")), read_json(workspace.path("promotion"))
    package = read_json(workspace.path("bento") / "package.json")
    console.print(_table(evaluation))
    if told := over_untrained(evaluation):
        console.print(f"{told}\n", soft_wrap=True)
    answered, asked = evaluation["counts"]["answered_questions"], evaluation["counts"]["test_questions"]
    console.print(
        f"{_about(asked, 'test', evaluation['counts']['test_documents'])}, {answered} of them answered "
        f"by the reader LLM; retrieval scope: {evaluation['scope']}; {evaluation['resamples']} resamples; seed "
        f"{evaluation['seeds'][0]}.",
        soft_wrap=True,
    )
    console.print(_intervals(evaluation), soft_wrap=True)
    console.print()
    alias, registered = promotion["alias"], f"Registered: {promotion['model']} version {promotion['version']}"
    if promotion["promoted"]:
        console.print(f"{registered}, alias {alias!r}. The gate:")
    else:
        kept = f"version {promotion['champion']} stays" if promotion["champion"] else "there is none yet"
        console.print(f"{registered}, NOT promoted ({alias!r}: {kept}). The gate:")
    for reason in promotion["reasons"]:
        console.print(f"  - {reason}", soft_wrap=True)
    if told := moved_since(promotion, now):
        console.print(told, soft_wrap=True)
    console.print()
    console.print(f"Are the labels worth training on? {read_json(workspace.path('label_quality'))['verdict'].capitalize()}.")
    console.print()
    if (ingestion := workspace.path("ingestion")).exists():  # runs of an earlier version have none
        for part in read_json(ingestion)["left_out"]:
            console.print(f"Left out of the source: {part['count']} x {part['reason']}", markup=False, soft_wrap=True)
    console.print("Where things are:")
    for artefact in (
        "release",
        "evaluation",
        "evaluation_page",
        "gate_page",
        "runs",
        "labels",
        "label_page",
        "ingestion",
        "bento",
    ):
        console.print(f"  {artefact:<16}{workspace.path(artefact)}", soft_wrap=True)
    console.print(f"  MLflow          {workspace.root / 'mlflow.db'}", soft_wrap=True)
    console.print()
    console.print("Next:")
    if not workspace.flat_reports:
        console.print("  make mlflow    runs, curves and versions          make dagster   the chain as assets")
        served = "  make serve     a page and POST /v1/search on port 3000"
        console.print(served if package["built"] else f"  no Bento: {package['reason']}")
        console.print(f"  .venv/bin/uae lineage {promotion['version']}   what this version was made from")
    elif package["built"]:
        console.print(f"  bentoml serve --do-not-track {(workspace.path('bento') / 'bento').resolve()}", soft_wrap=True)
    else:
        console.print(f"  no Bento: {package['reason']}", soft_wrap=True)


def print_comparison(result: dict[str, Any]) -> None:
    """A row a contender: its metrics as means over seeds, and its gains, corrected for the number of contenders."""
    console = Console(highlight=False, width=None if Console().is_terminal else 190)
    (first, against), *_ = result["gains_over"].items()
    title = _about(result["questions"], result["split"], result["documents"])
    table = Table(box=box.SIMPLE_HEAD, title=f"{title}, {len(result['seeds'])} seeds", title_justify="left")
    metrics = [metric for metric in _METRICS if metric in result["systems"]["base"]]
    names = [_NAMES.get(metric, metric.capitalize()) for metric in metrics]
    for heading in ("", *names, "gain in Recall@1", "gain in MAP", f"MAP - {first}", "p", "steps"):
        table.add_column(heading, no_wrap=True)
    for name, values in result["systems"].items():
        gains, other = result["gains"].get(name), against.get(name, {}).get("map")
        table.add_row(
            name,
            *(f"{values[metric]['mean']:.3f}" for metric in metrics),
            *(_relative(gains[metric]["corrected"]) if gains and metric in gains else "" for metric in ("recall@1", "map")),
            "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**other["corrected"]["absolute"]) if other else "",
            _p_value(other["corrected"]["p_value"]) if other else "",
            str(max(run["steps"] for run in result["training"][name]["runs"])) if gains else "",
        )
    console.print(table)
    console.print(_intervals(result), soft_wrap=True)
    against_first = f" and {len(against)} against {first}" if against else ""
    console.print(
        f"Corrected for multiplicity: p-values by Holm, intervals by Bonferroni, over {len(result['gains'])} contenders against "
        f"base{against_first}, each metric by itself. compare.json also holds them uncorrected.",
        soft_wrap=True,
    )
    if result["split"] == "test":
        console.print("These are test questions: whoever chooses a recipe by them has no honest figure left.", soft_wrap=True)


def _about(questions: int, split: str, documents: int) -> str:
    """
    Args:
        documents: 0: the questions are about no document in particular.
    """
    whose = f"{documents} document{'s' if documents > 1 else ''}" if documents else "all documents"
    return f"{questions} {split} question{'' if questions == 1 else 's'} about {whose}"


def _intervals(result: dict[str, Any]) -> str:
    from uae.evaluation.comparison import interval_words

    known = result.get("intervals") or {"over": "questions", "why": "an older version evaluated this; run uae evaluate again"}
    return f"{result['confidence']:.0%} bootstrap intervals and p-values {interval_words(known)}."


def print_plan(costs: Sequence[dict[str, Any]]) -> None:
    """What labelling would cost, a block a teacher."""
    console = Console(highlight=False)
    for cost in costs:
        console.print(f"teacher {cost['teacher']}", style="bold")
        lines = {"readings to ask": f"{cost['readings']:,}", "stored already": f"{cost['stored']:,}"}
        if cost["readings"]:
            about = "" if cost["exact"] else "about "
            saved = f"{cost['full_tokens'] / cost['tokens']:.1f} times as many without shared prefixes"
            place, by_workers = cost.get("device", "the server"), cost["seconds_by_workers"] or {}
            lines |= {
                "tokens": f"{about}{cost['tokens']:,} ({saved})",
                "speed": f"{cost['tokens_per_s']:,} tokens/s, measured for {cost['calibrated_on_s']} s on {place}",
                "time": f"about {timedelta(seconds=round(cost['seconds']))} (h:mm:ss)",
                "by workers": ", ".join(f"{n}: {timedelta(seconds=round(s))}" for n, s in by_workers.items()) or "the server's",
                "memory": f"about {cost['memory_mb']:,} MB" if cost["memory_mb"] is not None else "the server's",
            }
        for name, value in lines.items():
            console.print(f"  {name:<16} {value}", markup=False, soft_wrap=True)


def print_labels(report: dict[str, Any], page: Path) -> None:
    """The label-quality report in plain words."""
    console = Console(highlight=False)
    console.print(verdict(report), style="bold")
    console.print(report["summary"], markup=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"  - {warning['text']}", markup=False, soft_wrap=True)
    console.print(f"The whole report: {page}", markup=False, soft_wrap=True)


def verdict(report: dict[str, Any]) -> str:
    return f"Are these labels worth training on? {report['verdict'].capitalize()}."


def print_refresh(result: dict[str, Any], root: Path) -> None:
    """What a refresh took over, and what the gate said.

    Args:
        root: the project, or a folder of ``uae run``.
    """
    counts = result["passages"]
    say(f"{counts['new']} passages are new, {counts['taken_over']} taken over, {counts['gone']} gone")
    say(f"{result['vectors_embedded']} passages encoded, {result['vectors_found']} vectors found; {result['seconds']:g} s")
    for reason in result["reasons"]:
        say(f"  - {reason}")
    if result["lane"] == "same":
        say(f"version {result['version']} stays the {result['alias']}")
    elif result["promoted"]:
        say(f"{result['alias']} of {result['model']} is version {result['version']} now; it was {result['refreshed']}")
        say(how_to_serve(root))
    else:
        say(f"version {result['version']} was refused: version {result['champion']} stays the {result['alias']}")


def how_to_serve(root: Path) -> str:
    """How a version that has just become the champion gets to users; ``root`` is the project, or a folder of ``uae run``."""
    if not (root / ".stages").is_dir():
        return "uae release follow has it served; uae package builds its Bento"
    return f"uae release follow --root {root} has it served; uae run --out {root}, with its settings as before, builds its Bento"


def print_receipt(receipt: dict[str, Any]) -> None:
    """What ``uae forget`` removed, and what it does not reach."""
    say(f"{receipt['source']}: {len(receipt['passages'])} passages forgotten")
    say(f"  releases removed from the store: {', '.join(each[:12] for each in receipt['releases_in_store']) or 'none'}")
    say(f"  versions whose release was removed: {', '.join(map(str, receipt['versions']['removed'])) or 'none'}")
    say(f"  files of runs removed: {', '.join(receipt['files_of_runs']) or 'none'}")
    say(f"  readings removed: {sum(receipt['readings'].values())}; vectors removed: {receipt['vectors']}")
    for place, objects in receipt["dvc"]["removed"].items():
        say(f"  objects removed from DVC's {place}: {len(objects)}")
    for version, lost in receipt["dvc"]["versions"].items():
        say(f"  {version} has lost {', '.join(lost)}")
    for line in receipt["open"]:
        say(f"  not looked into: {line}")
    for line in receipt["unreached"]:
        say(f"  NOT REMOVED: {line}")


def print_lineage(parts: dict[str, dict[str, str]]) -> None:
    console = Console(highlight=False)
    for part, values in parts.items():
        console.print(part, style="bold")
        for name, value in values.items():
            console.print(f"  {name:<20} {value}", markup=False, soft_wrap=True)


def print_history(model: str, alias: str, now: int | None, events: Sequence["Event"]) -> None:
    """A row an event, newest last, as a log has it."""
    console = Console(highlight=False, width=None if Console().is_terminal else 220)
    if not events:
        say(f"{model}: nothing was promoted or refused yet")
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{alias} of {model}: version {now or '-'}", title_justify="left")
    for heading in ("when (UTC)", "version", "before", "what", "who"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why")
    for event in events:
        what = event.kind if event.passed is None else ("passed the gate" if event.passed else "refused")
        cells = [f"{event.at:%Y-%m-%d %H:%M}", str(event.version or "-"), str(event.before or "-"), what, event.who, event.why]
        table.add_row(*map(escape, cells))
    console.print(table)


def print_drift(report: dict[str, Any], workspace: Workspace) -> None:
    """Whether queries have changed, why that is said, and what has no good answer."""
    if "why_not" in report:
        say(f"Not watched yet: {report['why_not']}.")
        return
    say(f"Drift, seen at {report['drifted_at']}." if report["drifted"] else "No drift.")
    for reason in report["reasons"]:
        say(f"  - {reason}")
    low, before = report["recent"]["low"], report["reference"]["low"]
    say(
        f"{low['share']:.1%} [{low['low']:.1%}, {low['high']:.1%}] of the last {low['of']} distinct queries have no passage as "
        f"near as {report['low_is_below']:.3f}; {before['share']:.1%} of the reference."
    )
    for each in report["clusters"]:
        say(f"  {each['queries']} about {', '.join(each['words']) or 'no telling word'}: {each['examples'][0]}")
    if report["retrain"]:
        say("A retraining is asked for (drift.retrain_share).")
    say(f"Report {workspace.path('drift')}, picture {workspace.path('drift_picture')}")


def print_releases(installed: Sequence["Installed"], store: Path) -> None:
    """A row a release, newest first."""
    from uae.release.manifest import system_names

    console = Console(highlight=False, width=None if Console().is_terminal else 220)
    if not installed:
        console.print(f"{store} holds no release: uae release activate VERSION brings one", markup=False, soft_wrap=True)
        return
    metrics = list(dict.fromkeys(name for each in installed for name in (each.origin or {}).get("metrics", {})))
    metrics = [name for name in _METRICS if name in metrics]
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "",
        "release",
        "model",
        "version",
        *(_NAMES.get(name, name.capitalize()) for name in metrics),
        "systems",
        "installed (UTC)",
    ):
        table.add_column(heading, no_wrap=True)
    for each in installed:
        origin = each.origin or {}
        values = [origin.get("metrics", {}).get(name) for name in metrics]
        table.add_row(
            "active" if each.is_active else ("before" if each.is_before else ""),
            each.fingerprint[:12],
            str(origin.get("model", "-")),
            str(origin.get("version", "-")),
            *("-" if value is None else f"{value:.3f}" for value in values),
            ", ".join(system_names(each.folder)) or "-",
            f"{each.installed_at:%Y-%m-%d %H:%M}",
        )
    console.print(table)


def print_publications(found: Sequence["Publication"]) -> None:
    """A row a release that a collection holds, newest first."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "release", "version", "passages", "published (UTC)"):
        table.add_column(heading, no_wrap=True)
    for each in found:
        state = "active" if each.is_active else "before" if each.is_before else ""
        at = f"{each.published_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        table.add_row(state, each.release[:12], str(each.version), f"{each.passages:,}", at)
    Console(highlight=False, width=None if Console().is_terminal else 220).print(table)


def print_published(published: "Published", where: str) -> None:
    """What is active now, what became of every leg's rows, and how they are searched."""
    say(f"active in {where}: {published.release[:12]}")
    for name, change in published.changes.items():
        how = (
            "every vector is compared"
            if change.breadth is None
            else f"HNSW with ef_search {change.breadth}, recall@10 {change.recall:.4f}"
        )
        say(f"  {name}: {change.added:,} added, {change.ended:,} ended, {change.kept:,} kept; {how}")
    if not published.changes:
        say("  it was there already: nothing was loaded")
    if published.before and published.before != published.release:
        say(f"uae release rollback --to goes to: {published.before[:12]}")


def print_active(store: "ReleaseStore") -> None:
    """What is active now, and what a rollback would go to."""
    installed = store.installed()
    (active,) = [each for each in installed if each.is_active]
    before = next((each for each in installed if each.is_before), None)
    say(f"active: {_release(active)}")
    say(f"uae release rollback goes to: {_release(before) if before else 'nothing, there was none before'}")


def say(text: str) -> None:
    """Print a line of ``uae release``, without markup or line breaks."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def _release(installed: "Installed") -> str:
    origin = installed.origin
    return installed.fingerprint[:12] + (f" ({origin['model']} version {origin['version']})" if origin else "")


def _table(evaluation: dict[str, Any]) -> Table:
    from uae.evaluation.comparison import decisive

    table = Table(box=box.SIMPLE_HEAD, title="Base encoder against UAE on the test questions", title_justify="left")
    for heading in ("", "base", "UAE", "relative gain"):
        table.add_column(heading, no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    systems, gains = evaluation["systems"], evaluation["gains"]["uae"]
    for metric in _METRICS:
        if metric not in gains:
            continue
        base, uae, gain = (decisive(found[metric]) for found in (systems["base"], systems["uae"], gains))
        table.add_row(
            _NAMES.get(metric, metric.capitalize()),
            f"{base['mean']:.3f} [{base['low']:.3f}, {base['high']:.3f}]",
            f"{uae['mean']:.3f} [{uae['low']:.3f}, {uae['high']:.3f}]",
            _relative(gain),
            _p_value(gain["p_value"]),
        )
    if not table.row_count:
        raise ArtefactError("the evaluation holds no metric to show: run the evaluate stage again")
    return table


def moved_since(promotion: dict[str, Any], now: int | None) -> str | None:
    """That the alias is elsewhere now than the last promotion left it; None where it is not, or ``now`` is not known."""
    left = promotion["version"] if promotion["promoted"] else promotion["champion"]
    if now in (None, left):
        return None
    return f"Since then {promotion['alias']!r} was moved: it is version {now} today. uae history tells who moved it, and why."


def over_untrained(evaluation: dict[str, Any]) -> str | None:
    """UAE against what needs no training, the base encoder and BM25 in their best form; None where that was not measured."""
    from uae.evaluation.comparison import decisive

    gains = evaluation.get("gains_over", {}).get("convex_base", {}).get("uae")
    if not gains:
        return None
    told = []
    for metric in (metric for metric in _METRICS if metric in gains):
        base, gain = evaluation["systems"]["convex_base"][metric]["mean"], decisive(gains[metric])
        told.append(f"{_NAMES.get(metric, metric.capitalize())} {base:.3f}, {_gain(gain)}, p {_p_value(gain['p_value'])}")
    return f"UAE over BM25 and the base encoder in their best form (convex_base): {'; '.join(told)}."


def _gain(gain: dict[str, Any]) -> str:
    """In points where the other's mean is 0."""
    return _relative(gain) if gain["relative"] else "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gain["absolute"])


def _relative(gain: dict[str, Any]) -> str:
    relative = gain["relative"]
    return f"{relative['mean']:+.1%} [{relative['low']:+.1%}, {relative['high']:+.1%}]" if relative else "-"


def _p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
