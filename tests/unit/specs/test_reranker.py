from typing import Any

import pytest
from pydantic import ValidationError

from app.datasets.checks import check_rows
from app.specs import JobSpec
from app.specs.preflight import Survey


def job(target: str = "label", rows: list[dict[str, Any]] | None = None, **parts: Any) -> JobSpec:
    task = {"type": "reranker", "target": target}
    return JobSpec.model_validate({"task": task, "model": "m", "data": {"train": {"rows": rows or [{}]}}, **parts})


def faults(target: str, cell: Any, **texts: Any) -> list[tuple[str, str]]:
    spec = job(target)
    row = {"query": "q", "document": "d", **texts, target: spec.task.read(cell)}
    return list(spec.task.faults(row, spec.columns, None))


def row(query: str, document: str, label: Any) -> dict[str, Any]:
    return {"query": query, "document": document, "label": label}


@pytest.mark.parametrize(
    ("target", "cell", "read"),
    [
        ("label", 1, 1),
        ("label", False, 0),
        ("label", "True", 1),
        ("label", " 0 ", 0),
        ("label", 1.0, 1),
        ("score", 3, 3.0),
        ("score", "-0.5", -0.5),
    ],
)
def test_a_target_is_read(target: str, cell: Any, read: float) -> None:
    assert job(target).task.read(cell) == read
    assert faults(target, cell) == []


@pytest.mark.parametrize(
    ("target", "cell", "says"),
    [
        ("label", 2, "the label '2' is neither 0 nor 1; for degrees of relevance set task.target to \"score\""),
        ("label", 0.5, "the label '0.5' is neither 0 nor 1; for degrees of relevance set task.target to \"score\""),
        ("label", "yes", "the label 'yes' is neither 0 nor 1; for degrees of relevance set task.target to \"score\""),
        ("label", None, "no label"),
        ("label", float("nan"), "no label"),
        ("label", [1], "no label"),
        ("score", "high", "the score 'high' is not a finite number; for labels such as true and false set task.target"),
        ("score", True, "the score 'true' is not a finite number; for labels such as true and false set task.target"),
        ("score", float("inf"), "the score 'inf' is not a finite number"),
        ("score", 10**400, "is not a finite number"),
        ("score", "", "no score"),
        ("score", None, "no score"),
    ],
)
def test_a_bad_target_is_refused_with_what_to_do(target: str, cell: Any, says: str) -> None:
    [(role, message)] = faults(target, cell)
    assert role == target
    assert says in message
    assert len(message) < 200


def test_a_row_needs_both_texts() -> None:
    assert faults("label", 1, query=" ", document=7) == [
        ("query", "the text is empty"),
        ("document", "text must be a string, this is int"),
    ]


def test_the_columns_are_those_of_the_target() -> None:
    assert job().columns == {"query": "query", "document": "document", "label": "label"}
    assert job("score").columns == {"query": "query", "document": "document", "score": "score"}
    assert job("score").task.target_role == "score"


def test_a_bad_row_is_refused_at_submit_with_its_place() -> None:
    rows = [row("q", "a", 1), row("q", "b", 3), row("q", "c", 0)]
    [problem] = check_rows(job(rows=rows), rows, row_limit=100).problems
    assert (problem.param, problem.code, problem.row, problem.column) == ("data.train", "bad_row", 2, "label")
    assert problem.message == (
        "train row 2, column 'label': the label '3' is neither 0 nor 1; "
        'for degrees of relevance set task.target to "score"'
    )


@pytest.mark.parametrize("label", [0, 1])
def test_labels_that_are_all_alike_are_refused_at_submit(label: int) -> None:
    rows = [row("q", "a", label), row("q", "b", label)]
    [problem] = check_rows(job(rows=rows), rows, row_limit=100).problems
    assert problem.code == "classes"
    assert problem.message.startswith(f"every label is {label}; a reranker needs")


def test_labels_are_counted_and_scores_are_not() -> None:
    seen = Survey(job().task, job().columns)
    for number, label in enumerate((1, 0, 0), start=1):
        seen.row("train", number, row("q", str(number), label))
    assert seen.findings()["classes"] == {"train": {"0": 2, "1": 1}}
    scores = [{"query": "q", "document": text, "score": 1.0} for text in "ab"]
    assert check_rows(job("score", scores), scores, row_limit=100).findings["classes"] == {}


@pytest.mark.parametrize(
    ("rows", "is_refused"),
    [
        ([row("a", "x", 1), row("b", "y", 0)], True),
        ([row("a", "x", 1), row("a", "y", 1)], True),
        ([row("a", "x", 1), row("a", "y", 0)], False),
    ],
    ids=["one document a query", "all relevant", "comparable"],
)
def test_ndcg_by_name_needs_a_query_whose_documents_differ(rows: list[dict[str, Any]], is_refused: bool) -> None:
    train = [row("q", "a", 1), row("q", "b", 0)]
    spec = job(rows=train, evaluation={"metrics": ["accuracy", "ndcg_at_10"]})
    problems = check_rows(spec, train, rows, row_limit=100).problems
    assert [problem.code for problem in problems] == (["metric_unavailable"] if is_refused else [])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"training": {"class_weights": "balanced"}}, "the task reranker supports only null here"),
        ({"training": {"engine": "tensorflow"}}, "the engine tensorflow"),
        ({"evaluation": {"metrics": ["spearman"]}}, "its metrics are ndcg_at_10, mrr, accuracy"),
    ],
)
def test_what_does_not_go_together_is_refused(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        job(**parts)
