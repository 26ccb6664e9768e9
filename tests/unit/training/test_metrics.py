from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from app.specs.text_classification import MetricName
from worker.training.metrics import METRICS, Scores, greater_is_better


def compute(names: list[str], predictions: list[int], references: list[int], scratch: Path) -> dict[str, float]:
    """In two batches, as an evaluation comes in many."""
    scores = Scores(names, scratch)
    scores.add_batch(predictions[:1], references[:1])
    scores.add_batch(predictions[1:], references[1:])
    return scores.compute()


TRUTH = [0, 0, 0, 1, 1, 2, 2, 2, 2]
GUESS = [0, 0, 1, 1, 0, 2, 2, 0, 2]


def test_every_metric_of_the_spec_is_there() -> None:
    assert set(METRICS) == set(MetricName.__args__)


def test_the_average_is_in_the_name_and_macro_without_one(tmp_path: Path) -> None:
    found = compute(list(METRICS), GUESS, TRUTH, tmp_path)
    assert found["accuracy"] == pytest.approx(accuracy_score(TRUTH, GUESS))
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert found[name] == pytest.approx(score(TRUTH, GUESS, average="macro"))
        assert found[f"{name}_micro"] == pytest.approx(score(TRUTH, GUESS, average="micro"))
        assert found[f"{name}_weighted"] == pytest.approx(score(TRUTH, GUESS, average="weighted"))


def test_a_class_that_is_never_predicted_counts_as_zero(tmp_path: Path) -> None:
    assert compute(["precision"], [0, 0], [0, 1], tmp_path)["precision"] == pytest.approx(0.25)


def test_evaluate_leaves_no_files(tmp_path: Path) -> None:
    compute(["accuracy", "f1"], GUESS, TRUTH, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_each_metric_knows_its_direction() -> None:
    assert greater_is_better("f1_weighted")
    assert not greater_is_better("loss")
