"""The tables that training reads, and the examples of each split that follow from them and the options."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from uae.io.tables import CANDIDATES, QUESTIONS, read_table
from uae.teacher.manifest import read_label_manifest
from uae.text.passage_template import TEXT_ALONE, PassageTemplate
from uae.text.stored_passages import StoredPassages
from uae.training.examples import Example, build_examples, evidence_texts, labelled_pairs, require_questions
from uae.training.false_negatives import known_false_negatives
from uae.training.options import TrainOptions


@dataclass(frozen=True)
class TrainingData:
    """Candidate pairs, and where the teacher's readings of them are. The tables are of the schemas of these names.

    Of the corpus' texts only those are in memory that a pair names, or the evidence of a question that has pairs. Who needs
    others goes through ``stored``.
    """

    candidates: pd.DataFrame
    stored: StoredPassages  # all passages
    read_as: PassageTemplate  # what the student reads of them
    questions: pd.DataFrame
    stores: tuple[Path, ...]  # of labels; a reading may stand in any of them
    manifest_path: Path  # of the labels: which readings count
    aggregation: Mapping[str, str]  # how readings become utilities: the last arguments of ``uae.teacher.utility.utilities``

    @classmethod
    def read(
        cls,
        candidates_path: Path,
        passages_path: Path,
        questions_path: Path,
        store_path: Path,
        manifest_path: Path,
        aggregation: Mapping[str, str],
        read_as: PassageTemplate = TEXT_ALONE,
    ) -> "TrainingData":
        """
        Args:
            read_as: what the student reads of a passage: it becomes the passage's text here (``passages``).
        """
        return cls(
            candidates=read_table(candidates_path, CANDIDATES),
            stored=StoredPassages(passages_path),
            read_as=read_as,
            questions=read_table(questions_path, QUESTIONS),
            stores=(store_path,),
            manifest_path=manifest_path,
            aggregation=aggregation,
        )

    @cached_property
    def plain(self) -> pd.DataFrame:
        """The passages that are named, and those that a template reads around them, as ingest wrote them and in its order."""
        named = {*self.candidates["passage_id"], *(one for evidence in self._asked["evidence"] for one in evidence)}
        taught = read_label_manifest(self.manifest_path).read_as
        return self.stored.rows(named, taught if taught.has_neighbours else self.read_as)

    @cached_property
    def passages(self) -> pd.DataFrame:
        """The same with what the student reads as their text."""
        return self.read_as.applied(self.plain)

    @property
    def _asked(self) -> pd.DataFrame:
        """The questions that have pairs."""
        return self.questions[self.questions["question_id"].isin(self.candidates["question_id"])]

    def corpus(self) -> pd.DataFrame:
        """All passages with what the student reads as their text: for the few that cannot do with less."""
        return self.read_as.applied(self.stored.whole())

    def with_more(self, candidates: pd.DataFrame, store_path: Path) -> "TrainingData":
        """The same with other candidates, some of whose readings stand in a further store."""
        return replace(self, candidates=candidates, stores=(*self.stores, store_path))

    def pairs(self) -> pd.DataFrame:
        """``labelled_pairs`` of the candidates.

        Raises:
            ArtefactError: a pair lacks a reading.
        """
        tables = (self.candidates, self.passages, self.questions)
        return labelled_pairs(*tables, self.stores, self.manifest_path, self.aggregation, self.plain)

    def evidence(self) -> dict[str, frozenset[str]]:
        """``evidence_texts`` of the questions that have pairs."""
        return evidence_texts(self._asked, self.passages)

    def by_split(self, pairs: pd.DataFrame, options: TrainOptions) -> dict[str, dict[str, Example]]:
        """Examples of the splits train and validation, by question_id.

        Raises:
            ArtefactError: one of them is empty.
        """
        parts = {split: self.examples(pairs[pairs["split"] == split], options) for split in ("train", "validation")}
        for split, part in parts.items():
            require_questions(part, split)
        return parts

    def examples(self, pairs: pd.DataFrame, options: TrainOptions) -> dict[str, Example]:
        """Examples of labelled pairs, by question_id. An objective that needs evidence gets the questions that have some."""
        objective = options.chosen_objective()
        reads_evidence = objective.evidence_in_target > 0
        evidence = self.evidence() if reads_evidence else {}
        if objective.needs_evidence:
            pairs = pairs[pairs["question_id"].isin(evidence)]
        ignored: dict[str, frozenset[str]] = {}
        if options.near_duplicate is not None and not pairs.empty:
            ignored = known_false_negatives(pairs, self._asked, self.passages, options.near_duplicate, reads_evidence)
        return build_examples(pairs, evidence, ignored, options.harmful_are_negatives, options.least_best_utility)
