import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from worker.training.by_hand import SpecUnusable, prepare_request

SPEC: dict[str, Any] = {
    "task": {"type": "text-classification"},
    "model": "local:tiny",
    "data": {"train": {"dataset": "TRAIN"}, "eval": {"dataset": "ds_" + "0" * 26}},
}


def write(folder: Path, spec: Any) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def test_files_stand_for_the_datasets_that_the_spec_names(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"a, b",1\nc,0\n')
    (tmp_path / "eval.jsonl").write_text('{"text": "a", "label": 1}\n')
    request = prepare_request(
        write(tmp_path, SPEC),
        tmp_path / "out",
        [f"TRAIN={tmp_path / 'train.csv'}", f"ds_{'0' * 26}={tmp_path / 'eval.jsonl'}"],
        None,
    )
    train, evaluation = (request.spec.data.train, request.spec.data.eval)
    assert pq.read_table(request.datasets[train.dataset]).to_pylist()[0] == {"text": "a, b", "label": 1}
    assert evaluation.dataset == "ds_" + "0" * 26
    assert set(request.datasets) == {train.dataset, evaluation.dataset}
    assert request.resume_from is None


def test_a_wrong_spec_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(SpecUnusable, match=r"training\.epoch: unknown field; did you mean 'epochs'"):
        prepare_request(write(tmp_path, {**SPEC, "training": {"epoch": 1}}), tmp_path, ["TRAIN=x"][:0], None)


@pytest.mark.parametrize(
    ("named", "message"),
    [("TRAIN", "NAME=PATH"), ("TRAIN=nowhere.csv", "no file"), ("TRAIN=spec.json", "must end in")],
)
def test_a_wrong_dataset_option_is_reported(
    tmp_path: Path, named: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecUnusable, match=message):
        prepare_request(write(tmp_path, SPEC), tmp_path, [named], None)
