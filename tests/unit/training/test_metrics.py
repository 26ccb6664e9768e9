from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from app.specs.tasks import TASKS as SPECS
from worker.training.evaluation.metrics import compute, greater_is_better
from worker.training.evaluation.metrics.classification import CLASSES
from worker.training.evaluation.metrics.regression import NUMBERS
from worker.training.tasks import TASKS

TRUTH = [0, 0, 0, 1, 1, 2, 2, 2, 2]
GUESS = [0, 0, 1, 1, 0, 2, 2, 0, 2]


@pytest.mark.parametrize("task", SPECS)
def test_every_metric_of_the_spec_is_there(task: str) -> None:
    assert set(TASKS[task].metrics) == set(SPECS[task].all_metrics())


def test_the_average_is_in_the_name_and_macro_without_one(tmp_path: Path) -> None:
    found = compute(CLASSES, list(CLASSES), GUESS, TRUTH, tmp_path)
    assert found["accuracy"] == pytest.approx(accuracy_score(TRUTH, GUESS))
    for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert found[name] == pytest.approx(score(TRUTH, GUESS, average="macro"))
        assert found[f"{name}_micro"] == pytest.approx(score(TRUTH, GUESS, average="micro"))
        assert found[f"{name}_weighted"] == pytest.approx(score(TRUTH, GUESS, average="weighted"))


def test_a_class_that_is_never_predicted_counts_as_zero(tmp_path: Path) -> None:
    assert compute(CLASSES, ["precision"], [0, 0], [0, 1], tmp_path)["precision"] == pytest.approx(0.25)


def test_evaluate_leaves_no_files(tmp_path: Path) -> None:
    compute(CLASSES, ["accuracy", "f1"], GUESS, TRUTH, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_each_metric_knows_its_direction() -> None:
    assert greater_is_better("f1_weighted")
    assert not greater_is_better("loss")
    assert not greater_is_better("perplexity")


def test_sets_of_classes_are_averaged_too(tmp_path: Path) -> None:
    truth, guess = [[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    found = compute(CLASSES, ["accuracy", "f1", "f1_micro"], guess, truth, tmp_path)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["f1"] == pytest.approx(f1_score(truth, guess, average="macro", zero_division=0))


def test_numbers_are_evaluated_by_distance_and_by_order(tmp_path: Path) -> None:
    found = compute(NUMBERS, list(NUMBERS), [1.0, 2.0, 4.0], [1.0, 3.0, 3.0], tmp_path)
    assert found["mae"] == pytest.approx(2 / 3)
    assert found["mse"] == pytest.approx(2 / 3)
    assert found["rmse"] == pytest.approx((2 / 3) ** 0.5)
    assert found["r2"] == pytest.approx(1 - 2 / (8 / 3))
    assert found["pearson"] == pytest.approx(0.7559289)
    assert found["spearman"] == pytest.approx(0.8660254)


def test_numbers_that_are_all_alike_go_with_nothing(tmp_path: Path) -> None:
    found = compute(NUMBERS, ["pearson", "spearman"], [1.0, 1.0], [0.0, 5.0], tmp_path)
    assert found == {"pearson": 0.0, "spearman": 0.0}
