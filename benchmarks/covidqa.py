"""The evidence on real data: UAE against its base encoder and against InfoNCE on evidence labels, on papers unseen in training.

Everything from the corpus to the intervals, over several seeds: retrieval, answers of a reader LLM, the LLM of another family,
time per query against LLM re-ranking. Hours on a CPU; finished parts are kept in --out, and the same command goes on from them.
Prints one JSON line last.

python benchmarks/covidqa.py --data ../shared/data/covidqa/200423_covidQA.json --out runs/covidqa
python benchmarks/covidqa.py --data FILE --out runs/covidqa --few 0.1 --few 0.25
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from uae.compare import compare_recipes
from uae.evaluation.answers import read_answers
from uae.evaluation.cost import reranking, time_queries, vector_search
from uae.evaluation.evaluate import gains_over
from uae.evaluation.fusion import reciprocal_rank_fusion
from uae.evaluation.judge import agreement, ceiling, passage_utilities, ranked_pairs, top_passage_utility
from uae.evaluation.lexical import rank_bm25
from uae.evaluation.metrics import retrieval_metrics
from uae.evaluation.rerank import rerank_by_query_likelihood
from uae.evaluation.statistics import paired_gain
from uae.evaluation.testset import BASE, choose_questions
from uae.files import read_json, sha256_bytes, write_json
from uae.index.build import IndexRecipe, build_release
from uae.index.release import Release
from uae.run import run_chain
from uae.settings import Settings, load_settings, select
from uae.sources import fingerprint
from uae.stages import STAGES, Workspace, judging_terms
from uae.tables import PASSAGES, QUESTIONS, RUNS, read_table, write_table

UAE, GOLD, MIXED = "uae", "gold_infonce", "uae_and_evidence"
# Candidates come from the base encoder and from chance: evidence puts none into the pool.
SETTINGS = (
    "ingest.split={train: 0.66, validation: 0.09, test: 0.25}",
    "candidates.top_k=16",
    "candidates.random=2",
    "candidates.gold=false",
)
CONTENDERS = (
    f"{UAE}: train.objective=utility_infonce",
    f"{GOLD}: train.objective=infonce",
    f"{MIXED}: train.objective=utility_infonce train.evidence_share=0.5",
)
METRICS = ("recall@1", "map", "token_f1")
PARAMS = Path("params.yaml")
Rankings = dict[str, tuple[list[str], list[float]]]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """The corpus with its labels, and what every part measures with."""

    def __init__(self, overrides: list[str], out: Path, seeds: int, rival_seeds: int):
        self.overrides, self.out, self.folder = overrides, out, out / "compare"
        self.settings: Settings = load_settings(PARAMS, overrides)
        run_chain(self.settings, out, Path("models"), say, until="label")
        self.workspace = Workspace(out, Path("models"), flat_reports=True)
        self.seeds, self.rival_seeds = ([self.settings.seed + n for n in range(number)] for number in (seeds, rival_seeds))
        self.terms = {
            "confidence": self.settings.evaluate.confidence,
            "resamples": self.settings.evaluate.resamples,
            "seed": self.settings.seed,
        }
        self.passages = read_table(self.workspace.path("passages"), PASSAGES)
        self.questions = choose_questions(read_table(self.workspace.path("questions"), QUESTIONS))
        self.evidence = dict(zip(self.questions["question_id"], self.questions["evidence"], strict=True))
        self.judging = judging_terms(select(self.settings, STAGES["evaluate"].params), self.workspace)

    def compared(self, contenders: Sequence[str], seeds: list[int], folder: Path, questions_path: Path | None = None) -> dict:
        return compare_recipes(PARAMS, self.overrides, contenders, len(seeds), self.workspace, folder, say, questions_path)

    def some_questions(self, number: int) -> pd.DataFrame:
        """So many of the test questions, drawn at random."""
        return self.questions.sample(min(number, len(self.questions)), random_state=0)

    def rankings(self) -> dict[str, Rankings]:
        """Of the base encoder, and of UAE by seed."""
        return {name: self._ranking(name) for name in (BASE, *(f"{UAE}-{seed}" for seed in self.seeds))}

    def _ranking(self, name: str) -> Rankings:
        """Of the encoder measured last under this name."""
        path = max(self.folder.glob(f"runs/{name}-*.parquet"), key=lambda path: path.stat().st_mtime)
        return {row.question_id: (row.passage_ids, row.scores) for row in read_table(path, RUNS).itertuples()}

    def over(self, name: str, other: str) -> dict:
        """The gain of one rival over another, on the seeds they were trained with."""
        tables = [
            sum(self._metrics(f"{each}-{seed}") for seed in self.rival_seeds) / len(self.rival_seeds) for each in (other, name)
        ]
        gains = gains_over(*tables, **self.terms)
        return {metric: brief(gains[metric]) for metric in ("recall@1", "map")}

    def _metrics(self, name: str) -> pd.DataFrame:
        ranked = {question_id: ids for question_id, (ids, _) in self._ranking(name).items()}
        return retrieval_metrics(ranked, self.evidence, self.settings.evaluate.cutoffs)

    def over_seeds(self, values: Mapping[str, Any]) -> Any:
        """The mean of UAE's tables or columns, by system, over seeds."""
        return sum(values[f"{UAE}-{seed}"] for seed in self.seeds) / len(self.seeds)

    def few_evidence(self, share: float) -> dict:
        """The comparison where the evidence of all but some train and validation questions is unknown."""
        path = self.out / "few" / f"questions-{share}.parquet"
        table = read_table(self.workspace.path("questions"), QUESTIONS)
        seen = table[table["split"] != "test"].sort_values("question_id")
        kept = set(seen.groupby("split").sample(frac=share, random_state=0)["question_id"])
        table["evidence"] = [row.evidence if row.split == "test" or row.question_id in kept else [] for row in table.itertuples()]
        write_table(path, QUESTIONS, table)
        return self.compared(CONTENDERS[1:], self.rival_seeds, self.out / "few" / str(share), path)


def answers(bench: Bench, ranked: Mapping[str, Rankings], held_out_answered: int) -> tuple[dict, dict]:
    """Token F1 of base and UAE by reader, and UAE's gain; the held-out LLM answers some questions, drawn at random."""
    asked = {"reader": (bench.workspace.model(bench.settings.models.reader), bench.questions)}
    if bench.settings.models.held_out:
        asked["held out"] = (bench.workspace.model(bench.settings.models.held_out), bench.some_questions(held_out_answered))
    means, gains = {}, {}
    for name, (path, questions) in asked.items():
        read = answers_of(bench, ranked, path, questions)
        ours = bench.over_seeds(read)
        means[name] = {"base": float(read[BASE]["token_f1"].mean()), "uae": float(ours["token_f1"].mean())}
        gains[name] = gains_over(read[BASE], ours, **bench.terms)["token_f1"]
    return means, gains


def answers_of(bench: Bench, systems: Mapping[str, Rankings], reader: Path, questions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Token F1 and exact match of each system, by question, kept on the disk."""
    e = bench.settings.evaluate
    tops = json.dumps(
        {
            name: {question_id: ranked[question_id][0][: e.reader_passages] for question_id in questions["question_id"]}
            for name, ranked in systems.items()
        }
    )
    path = bench.out / "answers" / f"{sha256_bytes(tops, fingerprint(reader), str(e.reader_new_tokens))[:16]}.parquet"
    if not path.exists():
        tables = read_answers(
            systems, questions, bench.passages, reader, e.reader_passages, None, e.reader_new_tokens, e.reader_batch_size,
            bench.settings.compute.device, bench.settings.compute.dtype,
        )  # fmt: skip
        rows = [
            {"system": name, "question_id": row.Index, "passage_ids": [], "scores": [], "answer": row.answer}
            | {"metrics": [("token_f1", row.token_f1), ("exact_match", row.exact_match)]}
            for name, table in tables.items()
            for row in table.itertuples()
        ]
        write_table(path, RUNS, rows)
    return {
        name: pd.DataFrame([dict(metrics) for metrics in rows["metrics"]], index=rows["question_id"].rename("question_id"))
        for name, rows in read_table(path, RUNS).groupby("system")
    }


def under_both_llms(bench: Bench, ranked: Mapping[str, Rankings], judged: int, judged_top: int) -> tuple[dict, Rankings]:
    """Utility of the first passages under the teacher and the LLM of another family; the teacher's ceiling on some questions."""
    some = sorted(bench.some_questions(judged)["question_id"])
    base = {question_id: ranked[BASE][question_id] for question_id in some}
    pairs = pd.concat([ranked_pairs(ranked.values(), 1), ranked_pairs([base], judged_top)]).drop_duplicates()
    judging = bench.judging
    utilities = {
        role: passage_utilities(
            llm, pairs.reset_index(drop=True), bench.questions, bench.passages, judging.answers_per_question,
            store_path=judging.store_path, readings_per_part=judging.readings_per_part, **judging.aggregation,
        )
        for role, llm in (("teacher", judging.teacher), ("held out", judging.held_out))
        if llm is not None
    }  # fmt: skip
    found: dict[str, Any] = {}
    for role, table in utilities.items():
        first = {name: top_passage_utility(ranking, table) for name, ranking in ranked.items()}
        ours = bench.over_seeds(first)[first[BASE].index]
        gain = paired_gain(first[BASE].to_numpy(), ours.to_numpy(), **bench.terms)
        found[role] = {
            "base": float(first[BASE].mean()), "uae": float(ours.mean()), "gain": gain.absolute._asdict(),
            "relative": gain.relative._asdict() if gain.relative else None, "p_value": gain.p_value, "questions": len(ours),
        }  # fmt: skip
    if len(utilities) == 2:
        found["agreement"] = agreement(*(table[table["question_id"].isin(some)] for table in utilities.values()), **bench.terms)
    return found, ceiling(base, utilities["teacher"], judged_top)


def time_per_query(bench: Bench, ranking: Rankings, queries: int) -> dict:
    """A release's search beside LLM re-ranking of the top 20, kept on the disk."""
    student = bench.folder / "students" / f"{UAE}-{bench.seeds[0]}"
    path = bench.out / f"cost-{queries}-{fingerprint(student)[:12]}.json"
    if not path.exists():
        w, settings = bench.workspace, bench.settings
        device = settings.compute.device
        build_release(
            documents_path=w.path("documents"), passages_path=w.path("passages"), questions_path=w.path("questions"),
            encoder_path=student, base_path=None, release_path=bench.out / "release",
            recipe=IndexRecipe(**settings.index.model_dump(exclude={"base"})), scope=settings.scope,
            passage_words=settings.ingest.passage_words, device=device,
        )  # fmt: skip
        reranker = bench.judging.open_reranker()
        rerank = partial(
            rerank_by_query_likelihood, questions=bench.questions, passages=bench.passages, teacher=reranker,
            template=bench.judging.query_template, top=20,
        )  # fmt: skip
        systems = {
            UAE: vector_search(Release(bench.out / "release", device), bench.questions, settings.scope, 10),
            "rerank": reranking(rerank, ranking),
        }
        write_json(path, time_queries(systems, sorted(ranking)[:queries]))
    return read_json(path)


def others(bench: Bench, ranked: Mapping[str, Rankings], top: Rankings) -> dict:
    """Retrieval of systems that are not trained, on the questions they were asked."""
    bm25 = rank_bm25(bench.questions, bench.passages, bench.settings.scope, None)
    systems = {
        "bm25": bm25,
        "hybrid": reciprocal_rank_fusion([bm25, ranked[BASE]]),
        "hybrid_uae": reciprocal_rank_fusion([bm25, ranked[f"{UAE}-{bench.seeds[0]}"]]),
        "ceiling": top,
    }
    found = {}
    for name, ranking in systems.items():
        evidence = {question_id: bench.evidence[question_id] for question_id in ranking}
        table = retrieval_metrics({q: ids for q, (ids, _) in ranking.items()}, evidence, bench.settings.evaluate.cutoffs)
        found[name] = {m: round(float(table[m].mean()), 4) for m in ("recall@1", "map")} | {"questions": len(table)}
    return found


def main(
    data: Annotated[Path, typer.Option(help="COVID-QA's file, or another in SQuAD's format.")],
    out: Annotated[Path, typer.Option(help="Where finished parts are kept.")] = Path("runs/covidqa"),
    seeds: int = 3,
    rival_seeds: Annotated[
        int | None, typer.Option(help="Seeds on which UAE stands against evidence labels; default: all of them.")
    ] = None,
    few: Annotated[list[float], typer.Option(help="Also compare with so small a share of the evidence labels.")] = (),
    held_out: Annotated[
        str | None, typer.Option(help="The LLM of another family, a model reference; none: params.yaml's.")
    ] = None,
    held_out_answered: Annotated[int, typer.Option(help="Test questions that the held-out LLM answers.")] = 150,
    judged: Annotated[int, typer.Option(help="Test questions on which ceiling and agreement are measured.")] = 60,
    judged_top: Annotated[int, typer.Option(help="Of the base's ranking, for ceiling and agreement.")] = 16,
    timed: Annotated[int, typer.Option(help="Queries timed one at a time.")] = 5,
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    source = ["ingest.format=squad", f"ingest.path={data}", *([f"models.held_out={held_out}"] if held_out else [])]
    bench = Bench([*source, *SETTINGS, *overrides], out, seeds, rival_seeds or seeds)
    result = bench.compared(CONTENDERS[:1], bench.seeds, bench.folder)
    against = bench.compared(CONTENDERS, bench.rival_seeds, bench.folder)
    ranked = bench.rankings()
    say("answers")
    token_f1, f1_gain = answers(bench, ranked, held_out_answered)
    say("utility of the first passages, under both LLMs")
    held, top = under_both_llms(bench, ranked, judged, judged_top)
    say("time per query")
    cost = time_per_query(bench, ranked[BASE], timed)
    gains = {metric: result["gains"][UAE][metric] for metric in ("recall@1", "map")} | {"token_f1": f1_gain["reader"]}
    over = against["gains_over"][UAE]
    line = {
        "n_questions": result["questions"],
        "n_documents": result["documents"],
        "seeds": result["seeds"],
        **{name: means(result["systems"][name]) for name in (BASE, UAE)},
        "by_seed": {
            name: values["recall@1"] for name, values in (against["by_seed"] | result["by_seed"]).items() if name != BASE
        },
        "relative_gain": {metric: gains[metric]["relative"]["mean"] for metric in METRICS},
        "ci95": {metric: [gains[metric]["relative"][end] for end in ("low", "high")] for metric in METRICS},
        "p_value": {metric: gains[metric]["p_value"] for metric in METRICS},
        "rival_seeds": against["seeds"],
        **{name: means(against["systems"][name]) for name in (GOLD, MIXED)},
        "uae_on_these_seeds": means(against["systems"][UAE]),
        "gold_infonce_over_uae": {metric: brief(over[GOLD][metric]) for metric in ("recall@1", "map")},
        "both_over_uae": {metric: brief(over[MIXED][metric]) for metric in ("recall@1", "map")},
        "both_over_gold_infonce": bench.over(MIXED, GOLD),
        "token_f1": token_f1,
        "token_f1_gain": {name: brief(gain) for name, gain in f1_gain.items()},
        "held_out": held,
        "held_out_kept": kept(held),
        "rerank_ratio": round(cost["rerank"]["ms_per_query"] / cost[UAE]["ms_per_query"], 1),
        "ms_per_query": {name: round(each["ms_per_query"], 2) for name, each in cost.items()},
        "others": others(bench, ranked, top),
        "few_evidence": {
            str(share): {name: means(each["systems"][name]) for name in (GOLD, MIXED)}
            for share in few
            for each in [bench.few_evidence(share)]
        },
    }
    print(json.dumps(line))


def means(system: dict) -> dict[str, float]:
    return {metric: round(values["mean"], 4) for metric, values in system.items()}


def brief(gain: dict) -> dict:
    return {
        "mean": gain["absolute"]["mean"],
        "ci95": [gain["absolute"]["low"], gain["absolute"]["high"]],
        "p_value": gain["p_value"],
    }


def kept(held: dict) -> float | None:
    """The relative gain in the first passage's utility under the held-out LLM, by that under the teacher."""
    both = [held[role]["relative"] for role in ("teacher", "held out") if role in held and held[role]["relative"]]
    return float(np.round(both[1]["mean"] / both[0]["mean"], 3)) if len(both) == 2 and both[0]["mean"] > 0 else None


if __name__ == "__main__":
    typer.run(main)
