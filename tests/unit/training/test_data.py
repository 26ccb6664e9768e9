import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.specs import JobSpec
from app.specs.tasks.text_classification import TextClassification
from worker.training.errors import (
    BadRows,
    ColumnMissing,
    DataNotFound,
    MetricUnavailable,
    NoRows,
    SingleClass,
    Stopped,
    TooManyClasses,
)
from worker.training.inputs.data import Data, load_data
from worker.training.inputs.table import Table
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest

DATASET = "ds_" + "0" * 26


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Data]:
    def go(data: dict[str, Any], task: dict[str, Any] | None = None, rows: Any = None, **more: Any) -> Data:
        body = {"task": {"type": "text-classification", **(task or {})}, "model": "local:tiny", "data": data}
        body["evaluation"] = more.get("evaluation", {})
        spec = JobSpec.model_validate(body)
        files = {}
        if rows is not None:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
            files[DATASET] = tmp_path / "data.parquet"
        request = TrainingRequest(spec, tmp_path, files, None, {}, None, None)
        stop = more.get("stop", threading.Event())
        return load_data(request, Reporter(tmp_path), stop)

    return go


def numbered(count: int, classes: int = 2) -> list[dict[str, Any]]:
    return [{"text": f"row {n}", "label": n % classes, "_line": n + 2} for n in range(count)]


def notes(folder: Path) -> str:
    return (folder / "reports.jsonl").read_text() if (folder / "reports.jsonl").exists() else ""


def test_labels_are_learned_in_the_order_of_numbers(read: Callable[..., Data]) -> None:
    assert read({"train": {"rows": numbered(24, 12)}}).labels == [str(n) for n in range(12)]


def test_named_labels_keep_their_order_and_ids_count_into_them(read: Callable[..., Data]) -> None:
    rows = [{"text": "a", "label": cell} for cell in ("low", 1, "1", 1.0, "high")]
    data = read({"train": {"rows": rows}}, {"labels": ["high", "low"]})
    assert data.labels == ["high", "low"]
    assert data.splits["train"]["label"] == ["low", "low", "low", "low", "high"]


def test_true_one_and_the_text_one_are_distinguished(read: Callable[..., Data]) -> None:
    rows = [{"text": "a", "label": cell} for cell in (True, 1, 1.0, "1", False)]
    assert read({"train": {"rows": rows}}).splits["train"]["label"] == ["true", "1", "1", "1", "false"]


@pytest.fixture
def from_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Data]:
    """Rows as a hub dataset has them: with ids, and the names of the classes beside."""

    def go(cells: list[Any], **task: Any) -> Data:
        table = Table({"text": ["t"] * len(cells), "label": cells, "_row": list(range(1, len(cells) + 1))}, NAMED)
        monkeypatch.setattr("worker.training.inputs.data.read", lambda *_: table)
        data = {"train": {"hub": "x"}, "on_bad_row": "skip"}
        spec = JobSpec.model_validate({"task": {"type": "text-classification", **task}, "model": "m", "data": data})
        request = TrainingRequest(spec, tmp_path, {}, None, {}, None, None)
        return load_data(request, Reporter(tmp_path), threading.Event())

    return go


NAMED = {"label": ["neg", "pos"]}


def test_a_hub_datasets_class_names_are_used(from_hub: Callable[..., Data]) -> None:
    data = from_hub([1, 0, -1])
    assert data.splits["train"]["label"] == ["pos", "neg"]
    assert (data.labels, data.skipped) == (["neg", "pos"], 1)


def test_a_spec_can_rename_a_hub_datasets_classes(from_hub: Callable[..., Data]) -> None:
    assert from_hub([1, 0], labels=["bad", "good"]).splits["train"]["label"] == ["good", "bad"]


def test_a_hub_datasets_sets_of_classes_are_named(from_hub: Callable[..., Data]) -> None:
    data = from_hub([[1, 0], [], [1]], problem="multi-label")
    assert data.splits["train"]["label"] == [["pos", "neg"], [], ["pos"]]


def test_a_subset_is_the_one_that_datasets_would_take(read: Callable[..., Data]) -> None:
    rows = numbered(50)
    data = read({"train": {"dataset": DATASET}, "subset": {"train": 20, "seed": 7}}, rows=rows)
    expected = datasets.Dataset.from_list(rows).shuffle(seed=7).select(range(20))
    assert data.splits["train"]["text"] == expected["text"][:]
    assert data.splits["train"]["_line"] == expected["_line"][:]


def test_a_held_out_share_keeps_the_balance_of_labels(read: Callable[..., Data]) -> None:
    rows = [{"text": f"r{n}", "label": "rare" if n % 5 == 0 else "common"} for n in range(100)]
    data = read({"train": {"rows": rows}, "eval_fraction": 0.2})
    held, kept = data.splits["eval"], data.splits["train"]
    assert held["label"].count("rare") == 4
    assert set(held["text"]) | set(kept["text"]) == {row["text"] for row in rows}
    assert (len(held), len(kept)) == (20, 80)


def test_labels_too_rare_to_balance_are_held_out_anyway(read: Callable[..., Data], tmp_path: Path) -> None:
    rows = [{"text": f"r{n}", "label": "once" if n == 0 else str(n % 2)} for n in range(10)]
    assert len(read({"train": {"rows": rows}, "eval_fraction": 0.3}).splits["eval"]) == 3
    assert "too few rows" in notes(tmp_path)


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text classification in which equal texts make a group, and F1 compares the rows of one."""
    monkeypatch.setattr(TextClassification, "group_role", "text")
    monkeypatch.setattr(TextClassification, "group_metrics", ("f1",))


@pytest.mark.usefixtures("grouped")
def test_a_held_out_group_is_whole(read: Callable[..., Data]) -> None:
    rows = [{"text": f"r{n % 10}", "label": n % 2} for n in range(60)]
    data = read({"train": {"rows": rows}, "eval_fraction": 0.3})
    held, kept = (data.splits[split]["text"] for split in ("eval", "train"))
    assert (len(held), len(kept), len(set(held))) == (18, 42, 3)
    assert not set(held) & set(kept)
    again = read({"train": {"rows": rows}, "eval_fraction": 0.3})
    other = read({"train": {"rows": rows}, "eval_fraction": 0.3, "subset": {"seed": 1}})
    assert again.splits["eval"]["text"] == held != other.splits["eval"]["text"]


@pytest.mark.usefixtures("grouped")
def test_a_single_group_cannot_be_held_out(read: Callable[..., Data]) -> None:
    with pytest.raises(NoRows, match="belong to one group"):
        read({"train": {"rows": [{"text": "a", "label": n % 2} for n in range(8)]}, "eval_fraction": 0.3})


TRAIN = {"train": {"rows": numbered(4)}}
ALONE = {**TRAIN, "eval": {"rows": [{"text": "a", "label": 0}, {"text": "b", "label": 1}]}}
ALIKE = {**TRAIN, "eval": {"rows": [{"text": "a", "label": 0}] * 2 + [{"text": "b", "label": 1}] * 2}}
COMPARABLE = {**TRAIN, "eval": {"rows": [{"text": "a", "label": 0}, {"text": "a", "label": 1}]}}


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize(
    ("data", "metrics"),
    [
        (COMPARABLE, ["accuracy", "f1"]),
        (ALONE, ["accuracy"]),
        (ALIKE, ["accuracy"]),
        ({**COMPARABLE, "test": ALONE["eval"]}, ["accuracy"]),
        (TRAIN, ["accuracy", "f1"]),
    ],
    ids=["comparable", "one row a group", "equal targets", "the test split", "nothing evaluated"],
)
def test_a_default_metric_over_groups_needs_a_group_whose_targets_differ(
    read: Callable[..., Data], tmp_path: Path, data: dict[str, Any], metrics: list[str]
) -> None:
    assert read(data).metrics == metrics
    assert ("not computed: f1" in notes(tmp_path)) is ("f1" not in metrics)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("evaluation", [{"metrics": ["f1", "accuracy"]}, {"best_by": "f1"}], ids=["metrics", "best_by"])
def test_a_metric_over_groups_that_the_spec_names_is_refused(
    read: Callable[..., Data], evaluation: dict[str, Any]
) -> None:
    with pytest.raises(MetricUnavailable, match="'f1' cannot be computed: no two eval rows with the same 'text'"):
        read(ALONE, evaluation=evaluation)


def test_bad_rows_fail_with_the_place_in_the_users_file(read: Callable[..., Data]) -> None:
    rows = numbered(40)
    rows[30]["text"] = " "
    rows[35]["label"] = None
    with pytest.raises(BadRows) as caught:
        read({"train": {"dataset": DATASET}, "subset": {"train": 40}}, rows=rows)
    details = caught.value.failure.details
    assert {(p["row"], p["line"], p["column"]) for p in details["problems"]} == {(31, 32, "text"), (36, 37, "label")}
    assert details["count"] == 2
    assert "line" in str(caught.value)


def test_only_the_first_twenty_bad_rows_are_listed(read: Callable[..., Data]) -> None:
    rows = [{"text": "", "label": n % 2} for n in range(30)]
    with pytest.raises(BadRows, match="29 more") as caught:
        read({"train": {"rows": rows}})
    assert len(caught.value.failure.details["problems"]) == 20


def test_bad_rows_can_be_left_out_and_counted(read: Callable[..., Data], tmp_path: Path) -> None:
    rows = [*numbered(10), {"text": None, "label": 1}, {"text": 5, "label": ["x"]}]
    data = read({"train": {"rows": rows}, "on_bad_row": "skip"})
    assert (len(data.splits["train"]), data.skipped) == (10, 2)
    assert "2 of 12 train rows were skipped" in notes(tmp_path)


def test_a_split_of_bad_rows_only_has_no_rows(read: Callable[..., Data]) -> None:
    with pytest.raises(NoRows, match="the text is empty"):
        read({"train": {"rows": numbered(4)}, "eval": {"rows": [{"text": "", "label": 0}]}, "on_bad_row": "skip"})


def test_a_label_that_train_lacks_is_a_bad_eval_row(read: Callable[..., Data]) -> None:
    with pytest.raises(BadRows, match="'7' is not one of the classes of train: 0, 1"):
        read({"train": {"rows": numbered(4)}, "eval": {"rows": [{"text": "a", "label": 7}]}})


def test_one_class_or_too_many_cannot_be_learned(read: Callable[..., Data]) -> None:
    with pytest.raises(SingleClass, match="holds 1 class"):
        read({"train": {"rows": numbered(4, 1)}})
    with pytest.raises(TooManyClasses, match="number to regress on"):
        read({"train": {"rows": numbered(1200, 1200)}})


def test_a_missing_column_names_those_there_are_and_the_nearest(read: Callable[..., Data]) -> None:
    rows = [{"reviews": "a", "stars": 1, "_line": 2}]
    with pytest.raises(ColumnMissing) as caught:
        read({"train": {"dataset": DATASET}, "columns": {"text": "review", "label": "stars"}}, rows=rows)
    assert "its columns are: reviews, stars" in str(caught.value)
    assert '"text": "reviews"' in caught.value.failure.hint


def test_data_that_is_not_there_is_reported(read: Callable[..., Data], tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="is not here"):
        read({"train": {"dataset": DATASET}})
    with pytest.raises(DataNotFound, match="its cache does not hold dataset 'yelp_review_full'"):
        read({"train": {"hub": "yelp_review_full"}})
    (tmp_path / "data.parquet").write_text("no parquet")
    request = JobSpec.model_validate(
        {"task": {"type": "text-classification"}, "model": "m", "data": {"train": {"dataset": DATASET}}}
    )
    wanted = TrainingRequest(request, tmp_path, {DATASET: tmp_path / "data.parquet"}, None, {}, None, None)
    with pytest.raises(DataNotFound, match="cannot be read"):
        load_data(wanted, Reporter(tmp_path), threading.Event())


@pytest.mark.parametrize("name", ["csv", "..", "folder"])
def test_a_hub_id_is_never_a_file_of_this_machine(
    read: Callable[..., Data], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").write_text("text,label\nsecret,0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFound, match="not the id of a hub dataset"):
        read({"train": {"hub": name}})


def test_the_hash_speaks_of_the_rows_used_in_order(read: Callable[..., Data]) -> None:
    rows = numbered(6)
    first = read({"train": {"rows": rows}}).hashes["train"]
    assert read({"train": {"dataset": DATASET}}, rows=rows).hashes["train"] == first
    assert read({"train": {"rows": [{**row, "other": 1} for row in rows]}}).hashes["train"] == first
    assert read({"train": {"rows": rows[::-1]}}).hashes["train"] != first


def test_checking_stops_when_asked(read: Callable[..., Data]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        read({"train": {"rows": numbered(4)}}, stop=stop)
