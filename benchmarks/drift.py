"""Does the drift report cry wolf, and how soon does it see a new topic? On the bundled corpus's questions and a release of it.

The questions are cut into two halves by chance, a hundred times. One half is the reference; the other is drawn from, with
repetitions, for windows of 500 queries. In an A/A window nothing else is asked. In a planted one, each query is of a new topic
with a chance of 10 %. There are 40 questions on each of five topics in new_topics.jsonl, one of them near to the corpus. A window
is looked at after every query. ``repeated_test`` is what looking every 25 queries would do with a plain test of the low share
(Fisher's).

--picture also writes a log as the service does, with a topic planted in it, and draws the report. Prints one JSON line last.

python benchmarks/drift.py --release models/release --picture runs/drift.png
"""

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.stats import fisher_exact

from uae.drift.options import DriftOptions
from uae.drift.picture import draw
from uae.drift.report import drift_report
from uae.drift.signals import Measured, key, measure
from uae.drift.watch import judge, low_limit
from uae.io.errors import ArtefactError
from uae.release.open import Release
from uae.serving.query_log import Logged, QueryLog

HERE = Path(__file__).resolve().parent
WINDOW, SHARE, FALSE_ALARMS, LOW_SHARE, LIFE, LOOK = 500, 0.1, 0.05, 0.05, 10, 25


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def once_each(draws: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The first draw of each distinct query, as the report has them: which query, and after how many draws it came."""
    seen: set[str] = set()
    kept = [place for place, row in enumerate(draws) if key(texts[row]) not in seen and not seen.add(key(texts[row]))]
    return draws[kept], np.array(kept) + 1


def alarm(measured: Measured, texts: list[str], reference: np.ndarray, draws: np.ndarray, number: int, rng) -> int | None:
    """After how many queries a window raises an alarm; None: it does not."""
    rows, counts = once_each(draws, texts)
    ties = rng.random(len(reference) + len(rows))
    over = judge(measured.take(reference), measured.take(rows), ties, number, FALSE_ALARMS).first_over
    return None if over is None else int(counts[over])


def tested_repeatedly(measured: Measured, texts: list[str], reference: np.ndarray, draws: np.ndarray) -> bool:
    before = measured.take(reference)
    low = low_limit(before, LOW_SHARE)
    rows, counts = once_each(draws, texts)
    beyond = measured.cosines[rows] < low
    of_before = int((before.cosines < low).sum())
    for seen in range(LOOK, WINDOW + 1, LOOK):
        now = beyond[counts <= seen]
        table = [[int(now.sum()), int((~now).sum())], [of_before, len(reference) - of_before]]
        if fisher_exact(table, alternative="greater").pvalue <= FALSE_ALARMS:
            return True
    return False


def planted(rng, known: np.ndarray, new: np.ndarray) -> np.ndarray:
    draws = rng.choice(known, WINDOW)
    return np.where(rng.random(WINDOW) < SHARE, rng.choice(new, WINDOW), draws)


def draw_example(path: Path, release: Path, texts: list[str], known: int, new: np.ndarray, seed: int) -> dict:
    """A log of two quiet days' queries and a third day's with the topic, its report and its picture."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(known)
    reference, other = order[: known // 2], order[known // 2 :]
    rows = np.concatenate([rng.choice(reference, WINDOW), rng.choice(other, WINDOW), planted(rng, other, new)])
    start = datetime.now(UTC) - timedelta(days=3)
    with tempfile.TemporaryDirectory() as folder:
        log = QueryLog(Path(folder), 30, 100_000_000)
        for number, row in enumerate(rows):
            time = start + timedelta(days=number // WINDOW, seconds=number % WINDOW)
            log.add([Logged(time, texts[row], "uae", "cosine", 0.5, 5, None, False, [], [], [], "0" * 64, "0" * 64)])
        log.close()
        options = DriftOptions(
            log=folder, reference_queries=WINDOW, window_queries=WINDOW, low_share=LOW_SHARE, false_alarms=FALSE_ALARMS,
            retrain_share=0.1,
        )  # fmt: skip
        report, seen = drift_report(options, release, "cpu", seed)
    draw(path, report, seen)
    return {name: report[name] for name in ("drifted", "retrain", "reasons", "clusters")} | {
        "windows_drifted": [window["drifted"] for window in report["windows"]]
    }


def main(
    release: Annotated[Path, typer.Option(help="A release of the bundled corpus: make pipeline builds it.")] = Path(
        "models/release"
    ),
    questions: Path = HERE.parent / "data/sample/questions.jsonl",
    windows: Annotated[int, typer.Option(min=1)] = 100,
    seed: int = 13,
    picture: Annotated[Path | None, typer.Option(help="Where an example's picture goes.")] = None,
) -> None:
    if not (release / "manifest.json").exists():
        raise ArtefactError(f"{release} is no release: run make pipeline, or name one with --release")
    asked, new = read_lines(questions), read_lines(HERE / "new_topics.jsonl")
    texts = [line["question"] for line in (*asked, *new)]
    documents = np.array([line["document"] for line in asked])
    topics = {
        topic: len(asked) + np.flatnonzero([line["topic"] == topic for line in new])
        for topic in dict.fromkeys(line["topic"] for line in new)
    }
    opened = Release(release, "cpu")
    measured = measure(opened, texts)
    fingerprint, encoder = opened.fingerprint, opened.encoder
    opened.close()

    rng = np.random.default_rng(seed)
    quiet, repeated, lives, elsewhere = [], [], [], []
    found: dict[str, list[int | None]] = {topic: [] for topic in topics}
    for _ in range(windows):
        order = rng.permutation(len(asked))
        reference, other = order[: len(asked) // 2], order[len(asked) // 2 :]
        draws = rng.choice(other, WINDOW)
        quiet.append(alarm(measured, texts, reference, draws, 1, rng))
        repeated.append(tested_repeatedly(measured, texts, reference, draws))
        life = [alarm(measured, texts, reference, rng.choice(other, WINDOW), number, rng) for number in range(1, LIFE + 1)]
        lives.append(any(each is not None for each in life))
        for topic, rows in topics.items():
            found[topic].append(alarm(measured, texts, reference, planted(rng, other, rows), 1, rng))
        some = rng.permutation(np.unique(documents))
        here = np.isin(documents, some[: len(some) // 2])
        there = rng.choice(np.flatnonzero(~here), WINDOW)
        elsewhere.append(alarm(measured, texts, np.flatnonzero(here), there, 1, rng))

    def share(alarms: list) -> float:
        return round(float(np.mean([each is not None and each is not False for each in alarms])), 4)

    low = low_limit(measured.take(np.arange(len(asked))), LOW_SHARE)
    result = {
        "release": fingerprint[:12],
        "encoder": encoder[:12],
        "questions": len(asked),
        "windows": windows,
        "window_queries": WINDOW,
        "aa_alarm_share": share(quiet),
        "aa_alarm_share_repeated_test": share(repeated),
        f"aa_alarm_share_{LIFE}_windows": share(lives),
        "other_documents_alarm_share": share(elsewhere),
        "new_topic_share": SHARE,
        "found_within_window": {topic: share(alarms) for topic, alarms in found.items()},
        "found_within_window_all": share([each for alarms in found.values() for each in alarms]),
        "queries_until_found_median": {
            topic: float(np.median([WINDOW + 1 if each is None else each for each in alarms])) for topic, alarms in found.items()
        },
        "low_share_of_new_topic": {
            topic: round(float((measured.cosines[rows] < low).mean()), 3) for topic, rows in topics.items()
        },
    }
    if picture is not None:
        result["example"] = draw_example(picture, release, texts, len(asked), topics["infusion pumps"], seed)
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
