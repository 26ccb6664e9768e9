"""Uploads of several files: one dataset, in their order, or a refusal that names the file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from deployment import Deployment
from refusals import refusal
from tiny import sentences, spec

from app.datasets.form import FILE_LIMIT

CSV = b"text,label\na lovely film,good\na dull plot,bad\n"
JSONL = b'{"label": "good", "text": "fine"}\n\n{"label": "bad", "text": "poor"}\n'

Files = list[tuple[str, tuple[str, bytes]]]


def _form(*files: tuple[str, bytes]) -> Files:
    return [("file", file) for file in files]


def test_several_files_are_one_dataset_in_their_order(http: httpx.Client) -> None:
    answer = http.post("/v1/datasets", files=_form(("a.csv", CSV), ("b.jsonl", JSONL)), data={"name": "both of them"})
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    whole = {"name": "both of them", "type": "mixed", "filename": "a.csv", "rows": 4, "bytes": len(CSV + JSONL)}
    assert {name: dataset[name] for name in whole} == whole
    assert dataset["sha256"] == hashlib.sha256(CSV + JSONL).hexdigest()
    assert dataset["files"] == [
        {"name": name, "format": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "rows": 2}
        for name, kind, content in (("a.csv", "csv", CSV), ("b.jsonl", "jsonl", JSONL))
    ]
    assert [(column["name"], column["distinct"]) for column in dataset["columns"]] == [("text", 4), ("label", 2)]
    assert http.get(f"/v1/datasets/{dataset['id']}").json() == dataset
    assert http.get("/v1/datasets").json()["data"] == [dataset]
    assert http.get(f"/v1/datasets/{dataset['id']}/rows", params={"start": 1, "limit": 2}).json()["data"] == [
        {"text": "a dull plot", "label": "bad", "_line": 3, "_file": "a.csv"},
        {"text": "fine", "label": "good", "_line": 1, "_file": "b.jsonl"},
    ]
    body = spec(data={"train": {"dataset": dataset["id"]}, "eval": None})
    assert http.post("/v1/jobs/validate", json=body).json()["estimate"]["train_rows"] == 4
    assert http.delete(f"/v1/datasets/{dataset['id']}").status_code == 200


def test_one_file_answers_with_that_file_and_no_more(http: httpx.Client) -> None:
    dataset = http.post("/v1/datasets", files=_form(("a.csv", CSV))).json()
    (file,) = dataset["files"]
    assert (dataset["name"], dataset["type"], dataset["filename"]) == (None, "csv", "a.csv")
    assert (file["name"], file["format"], file["rows"]) == ("a.csv", "csv", 2)
    assert (file["bytes"], file["sha256"]) == (dataset["bytes"], dataset["sha256"])
    assert dataset["sha256"] == hashlib.sha256(CSV).hexdigest()
    (row, _) = http.get(f"/v1/datasets/{dataset['id']}/rows").json()["data"]
    assert row == {"text": "a lovely film", "label": "good", "_line": 2}
    error = refusal(http.post("/v1/datasets", files=_form(("a.csv", CSV + b"x\n"))), 422, "ragged_row")
    assert set(error["details"]) == {"row", "line", "column", "hint"}
    assert "a.csv" not in error["message"]


REFUSED: dict[str, tuple[tuple[str, bytes], str, dict[str, Any], str]] = {
    # the second file, the code, what the details must hold, and what the message must say
    "a bad row": (("b.csv", CSV + b"x\n"), "ragged_row", {"line": 4, "row": 3}, "'b.csv': line 4 has 1 cell"),
    "a missing column": (
        ("b.jsonl", b'{"text": "a", "lable": "x"}\n'),
        "columns_differ",
        {"column": "label"},
        "'b.jsonl' has no column 'label', which 'a.csv' has; did you mean 'lable'?",
    ),
    "one column more": (("b.csv", b"id,label,text\n1,a,b\n"), "columns_differ", {"column": "id"}, "leave it out"),
    "another type": (
        ("b.csv", b"text,label\na,1\n"),
        "mixed_types",
        {"column": "label"},
        "column 'label' is an integer in 'b.csv', but a string in 'a.csv'",
    ),
    "another format": (("b.xlsx", b"PK\x03\x04"), "unknown_format", {}, "'b.xlsx' has no known file name ending"),
    "an empty file": (("b.csv", b""), "empty", {}, "'b.csv': the file is empty"),
}


@pytest.mark.parametrize("running", ["local"], indirect=True)  # files are parsed alike whatever the database
@pytest.mark.parametrize(("second", "code", "place", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_does_not_fit_is_refused_by_its_name(
    http: httpx.Client, service: Deployment, second: tuple[str, bytes], code: str, place: dict[str, Any], message: str
) -> None:
    error = refusal(http.post("/v1/datasets", files=_form(("a.csv", CSV), second)), 422, code)
    assert error["param"] == "file"
    assert {key: error["details"][key] for key in place} == place
    assert error["details"]["file"] == second[0]
    assert message in error["message"]
    assert http.get("/v1/datasets").json()["data"] == []
    assert _left_behind(service) == []


def test_files_that_cannot_be_distinguished_or_counted_are_refused(http: httpx.Client, service: Deployment) -> None:
    error = refusal(http.post("/v1/datasets", files=_form(("x/a.csv", CSV), ("y/a.csv", CSV))), 422, "invalid_filename")
    assert "two files are called 'a.csv'" in error["message"]
    many = _form(*((f"{number}.csv", CSV) for number in range(FILE_LIMIT + 1)))
    refusal(http.post("/v1/datasets", files=many), 422, "too_many_files")
    assert http.get("/v1/datasets").json()["data"] == []
    assert _left_behind(service) == []


@pytest.mark.parametrize("running", ["local"], indirect=True)  # files are received alike whatever the storage
def test_as_many_files_as_there_may_be_with_the_longest_names_are_taken(http: httpx.Client) -> None:
    names = [f"{number:03}" + "ü" * 248 + ".csv" for number in range(FILE_LIMIT)]
    answer = http.post("/v1/datasets", files=_form(*((name, CSV) for name in names)))
    assert answer.status_code == 201, answer.text
    assert [file["name"] for file in answer.json()["files"]] == names
    assert answer.json()["rows"] == 2 * FILE_LIMIT


def test_the_limit_of_bytes_is_that_of_all_files_together(http: httpx.Client, service: Deployment) -> None:
    limit = int(service.settings["TUNESMITH_UPLOAD_LIMIT_BYTES"])
    half = b"text,label\n" + b"x,y\n" * (limit // 8)
    error = refusal(http.post("/v1/datasets", files=_form(("a.csv", half), ("b.csv", half))), 413, "too_large")
    assert str(limit) in error["message"]
    assert _left_behind(service) == []
    half = half[: limit // 2]
    answer = http.post("/v1/datasets", files=_form(("a.csv", half[:-1] + b"\n"), ("b.csv", half[:-1] + b"\n")))
    assert (answer.status_code, answer.json().get("bytes")) == (201, limit), answer.text


def test_bad_rows_far_down_a_later_file_are_refused_when_a_job_asks(http: httpx.Client) -> None:
    good = "".join(json.dumps(row) + "\n" for row in sentences(4)).encode()
    bad = good + b'{"text": "", "label": "good"}\n'
    dataset = http.post("/v1/datasets", files=_form(("a.jsonl", good), ("b.jsonl", bad))).json()["id"]
    error = refusal(
        http.post("/v1/jobs", json=spec(data={"train": {"dataset": dataset}, "eval": None})), 422, "bad_row"
    )
    assert (error["details"][0]["row"], error["details"][0]["line"]) == (9, 5)


def _left_behind(service: Deployment) -> list[Path]:
    return list((service.folder / "cache" / "uploads").glob("*"))
