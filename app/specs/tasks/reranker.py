"""Scoring how relevant a document is to a query, with both read together (a cross-encoder: Nogueira and Cho, 2019)."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.specs.labels import label_name, number
from app.specs.tasks.base import Columns, Example, Fault, Limits, Role, Row, TaskSpec, text_faults

LABELS = {"0": 0, "false": 0, "1": 1, "true": 1}
SHOWN = 50


class Reranker(TaskSpec):
    """Score how relevant a document is to a query, to sort the results of a search."""

    known_roles: ClassVar[tuple[Role, ...]] = (
        Role("query", ("question", "search_query", "sentence1"), is_group=True),
        Role("document", ("passage", "doc", "text", "answer", "sentence2")),
        Role("label", ("labels", "relevant", "is_relevant", "relevance"), is_answer=True, is_target=True),
        Role("score", ("scores", "similarity", "rating"), is_required=False, is_answer=True, is_target=True),
    )
    limits: ClassVar[Limits] = {"training.class_weights": (None,), "training.label_smoothing": (0.0,)}
    group_metrics: ClassVar[tuple[str, ...]] = ("ndcg_at_10", "mrr")
    example: ClassVar[Example] = {
        "name": "help-reranker",
        "task": {"type": "reranker"},
        "model": "cross-encoder/ms-marco-MiniLM-L6-v2",
        "data": {
            "train": {
                "rows": [
                    {
                        "query": "How do I reset my password?",
                        "document": "Choose 'forgotten password' on the first page.",
                        "label": 1,
                    },
                    {
                        "query": "How do I reset my password?",
                        "document": "Passwords have at least twelve characters.",
                        "label": 0,
                    },
                ]
            }
        },
    }

    type: Literal["reranker"] = Field(description="The task type.")
    target: Literal["label", "score"] = Field(
        default="label",
        description="The column to learn from: `label` says whether the document is relevant (0 or 1), `score` says how "
        "relevant it is (any number).",
    )

    @property
    def roles(self) -> tuple[str, ...]:
        """Both texts and the target."""
        return ("query", "document", self.target)

    @property
    def has_classes(self) -> bool:
        """The model has one output, also for labels."""
        return False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The quality of the ranking of each query, and how well single rows are predicted."""
        return (*self.group_metrics, "accuracy" if self.target == "label" else "spearman")

    @classmethod
    def all_metrics(cls) -> tuple[str, ...]:
        """Those of both targets."""
        return (*cls.group_metrics, "accuracy", "spearman")

    def read(self, cell: Any, names: Sequence[str] | None = None) -> Any:
        """0 or 1, or a float. A cell that is neither stays as it is, for `faults` to name it."""
        found = number(cell) if self.target == "score" else LABELS.get((label_name(cell) or "").lower())
        return cell if found is None else found

    def classes(self, cell: Any) -> Iterable[str]:
        """The label, so that the labels of each split are counted."""
        return (str(cell),) if self.target == "label" else ()

    def classes_fault(self, seen: Collection[str]) -> str | None:
        """A single label teaches nothing."""
        if len(seen) != 1:
            return None
        return f"every label is {next(iter(seen))}; a reranker needs documents with label 1 and documents with label 0"

    def faults(self, row: Row, columns: Columns, known: Collection[str] | None) -> Iterator[Fault]:
        """Rows that lack a text, or whose target is no label or no number."""
        yield from text_faults(row, columns, "query", "document")
        if message := self._target_fault(row.get(columns[self.target])):
            yield self.target, message

    def _target_fault(self, cell: Any) -> str | None:
        name = label_name(cell)
        if name is None:
            return f"no {self.target}"
        if self.target == "score":
            hint = 'for labels such as true and false set task.target to "label"'
            return None if number(cell) is not None else f"the score '{name[:SHOWN]}' is not a finite number; {hint}"
        hint = 'for degrees of relevance set task.target to "score"'
        return None if name in ("0", "1") else f"the label '{name[:SHOWN]}' is neither 0 nor 1; {hint}"


SPEC = Reranker
