"""The rows of a job, checked before it is queued."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.checks import DataReport, Rows, check_rows
from app.specs import JobSpec
from app.specs.tasks.text_classification import TextClassification

GOOD = [{"text": "fine", "label": 1}, {"text": "poor", "label": 0}]


def _spec(data: dict[str, Any] | None = None, labels: list[str] | None = None) -> JobSpec:
    return JobSpec.model_validate(
        {
            "task": {"type": "text-classification", "labels": labels},
            "model": "local:tiny",
            "data": {"train": {"rows": [{}]}, **(data or {})},
        }
    )


def _check(spec: JobSpec, train: Rows, eval_rows: Rows | None = None, *, row_limit: int = 1000) -> DataReport:
    return check_rows(spec, train, eval_rows, row_limit=row_limit)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "data.parquet"
    texts = ["good", "", "bad", None, "  ", "fine"]
    columns = {"review": texts, "stars": [5, 1, None, 5, 1, 1], "extra": [[1]] * 6, "_line": [2, 3, 5, 6, 9, 10]}
    pq.write_table(pa.table(columns), path)
    return path


def test_good_rows_pass() -> None:
    report = _check(_spec(), GOOD, GOOD)

    assert (report.problems, report.total, report.is_complete) == ([], 0, True)
    assert report.classes == {"0", "1"}
    assert report.checked == {"train": 2, "eval": 2}


def test_bad_rows_are_named_with_their_line(parquet: Path) -> None:
    report = _check(_spec({"columns": {"text": "review", "label": "stars"}}), parquet)

    assert [(problem.row, problem.line, problem.column) for problem in report.problems] == [
        (2, 3, "review"),
        (3, 5, "stars"),
        (4, 6, "review"),
        (5, 9, "review"),
    ]
    assert {problem.param for problem in report.problems} == {"data.train"}
    assert report.problems[0].message == "train row 2 (line 3 of the file), column 'review': the text is empty"
    assert report.total == 4


def test_skipping_counts_bad_rows_instead(parquet: Path) -> None:
    columns = {"text": "review", "label": "stars"}

    report = _check(_spec({"columns": columns, "on_bad_row": "skip"}), parquet)

    assert (report.total, report.skipped, report.classes) == (0, {"train": 4}, {"1", "5"})


def test_one_class_left_after_skipping_is_a_problem() -> None:
    rows = [{"text": "a", "label": 1}, {"text": "", "label": 0}]

    report = _check(_spec({"on_bad_row": "skip"}), rows)

    assert [problem.code for problem in report.problems] == ["classes"]
    assert "1 class" in report.problems[0].message


def test_no_row_left_after_skipping_is_a_problem() -> None:
    report = _check(_spec({"on_bad_row": "skip"}), GOOD, [{"text": "", "label": 0}, {"text": "x", "label": "new"}])

    assert [(problem.code, problem.param) for problem in report.problems] == [("no_usable_rows", "data.eval")]


@pytest.mark.parametrize("label", [1, [1, 2], None])
def test_one_class_or_none_is_reported(label: Any) -> None:
    report = _check(_spec(), [{"text": "a", "label": label}] * 3)

    assert report.total == (1 if label == 1 else 3)


def test_missing_columns_name_the_nearest(parquet: Path) -> None:
    report = _check(_spec({"columns": {"text": "reviews"}}), parquet, parquet)

    assert [(problem.param, problem.column) for problem in report.problems] == [
        ("data.train", "reviews"),
        ("data.train", "label"),
        ("data.eval", "reviews"),
        ("data.eval", "label"),
    ]
    assert "did you mean 'review'?" in report.problems[0].message
    assert "the columns are review, stars, extra;" in report.problems[0].message


def test_eval_labels_must_be_classes_of_train() -> None:
    report = _check(_spec(), GOOD, [{"text": "a", "label": 2}])

    (problem,) = report.problems
    assert (problem.param, problem.row) == ("data.eval", 1)
    assert "'2' is not one of the classes of train: 0, 1" in problem.message


def test_given_labels_may_be_named_or_counted() -> None:
    train = [{"text": "a", "label": 0}, {"text": "b", "label": "good"}, {"text": "c", "label": 1.0}]

    assert _check(_spec(labels=["bad", "good"]), train).classes == {"bad", "good"}
    assert _check(_spec(labels=["1", "0"]), train[:1] + train[2:]).classes == {"0", "1"}
    report = _check(
        _spec(labels=["bad", "good"]), [*train, {"text": "d", "label": 2}, {"text": "d", "label": "9" * 5000}]
    )
    assert [problem.row for problem in report.problems] == [4, 5]
    assert "bad, good" in report.problems[0].message


def test_only_the_first_twenty_are_shown_and_all_are_counted() -> None:
    report = _check(_spec(), [*GOOD, *[{"text": "", "label": None}] * 30])

    assert (len(report.problems), report.total) == (20, 60)


def test_a_longer_split_is_checked_as_far_as_asked() -> None:
    rows = [{"text": "a", "label": 1}] * 10 + [{"text": "b", "label": 2}]

    report = _check(_spec(), rows, [{"text": "a", "label": 7}], row_limit=5)

    assert (report.total, report.is_complete, report.checked) == (0, False, {"train": 5, "eval": 1})
    assert _check(_spec(), rows, row_limit=11).is_complete


@pytest.mark.parametrize(
    ("evaluation", "labels", "codes"),
    [
        ({"metrics": ["f1"]}, [0, 0], ["metric_unavailable"]),
        ({"metrics": ["f1"]}, [0, 1], []),
        ({}, [0, 0], []),
    ],
    ids=["named", "comparable", "default"],
)
def test_a_named_metric_that_the_rows_do_not_allow_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, evaluation: dict[str, Any], labels: list[int], codes: list[str]
) -> None:
    monkeypatch.setattr(TextClassification, "group_role", "text")
    monkeypatch.setattr(TextClassification, "group_metrics", ("f1",))
    spec = JobSpec.model_validate({**_spec().model_dump(mode="json"), "evaluation": evaluation})

    report = _check(spec, GOOD, [{"text": "same", "label": label} for label in labels])

    assert [problem.code for problem in report.problems] == codes
    assert all("no two eval rows with the same 'text'" in problem.message for problem in report.problems)
    assert all(problem.param == "evaluation.metrics" for problem in report.problems)
