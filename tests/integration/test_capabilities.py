"""What the service says it can do, it takes; and what it finds in the rows it tells."""

import time
from pathlib import Path

import httpx
import pytest
from deployment import Deployment
from jsonschema import validate
from refusals import refusal
from tiny import sentences, spec

from app.db import Database
from app.specs import TASKS
from app.workers.tables import Worker

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.json"))


def test_the_example_of_every_task_becomes_a_job(http: httpx.Client) -> None:
    tasks = http.get("/v1/tasks").json()["data"]
    assert [task["id"] for task in tasks] == list(TASKS)
    for task in tasks:
        assert task["engines"]
        assert task["methods"]["full"]
        assert task["job_schema"]["properties"].keys() >= {"task", "model", "data"}
        validate(task["example"], task["job_schema"])
        validate(task["example"]["task"], task["json_schema"])
        answer = http.post("/v1/jobs/validate", json=task["example"])
        assert answer.status_code == 200, answer.text
        assert answer.json()["preflight"]["data"]["rows"]["train"] >= 1
        created = http.post("/v1/jobs", json=task["example"])
        assert created.status_code == 201, created.text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_of_the_folder_becomes_a_job(http: httpx.Client, path: Path) -> None:
    text = path.read_text()
    for name in ("TRAIN_DATASET", "EVAL_DATASET"):
        if name in text:
            lines = "".join(f'{{"text": "{row["text"]}", "label": "{row["label"]}"}}\n' for row in sentences(40))
            uploaded = http.post("/v1/datasets", files={"file": (f"{name}.jsonl", lines)}).json()
            text = text.replace(name, uploaded["id"])
    created = http.post("/v1/jobs", content=text, headers={"content-type": "application/json"})
    assert created.status_code == 201, created.text


def test_what_is_odd_about_the_rows_is_reported_before_anything_runs(http: httpx.Client) -> None:
    rows = sentences(12)
    data = {
        "train": {"rows": [*rows, {"text": " ", "label": "good"}]},
        "eval": {"rows": rows[:3]},
        "on_bad_row": "skip",
    }
    found = http.post("/v1/jobs/validate", json=spec(data=data)).json()["preflight"]["data"]
    assert found["classes"]["train"] == {"bad": 6, "good": 6}
    assert found["duplicates"]["eval"] == {"count": 3, "rows": [1, 2, 3]}
    assert found["skipped"] == {"train": 1, "eval": 0}
    bad = found["bad_rows"][0]
    assert (bad["split"], bad["row"], bad["column"], bad["message"]) == ("train", 13, "text", "the text is empty")
    created = http.post("/v1/jobs", json=spec(data=data)).json()
    assert created["preflight"] == {"data": found}


MISFITS = [
    ({"training": {"engine": "tensorflow", "method": {"type": "lora"}}}, "training.method.type", "trainer and pytorch"),
    ({"training": {"method": {"type": "qlora"}}, "resources": {"gpus": 0}}, "resources.gpus", "full and lora"),
    ({"training": {"method": {"type": "lorra"}}}, "training.method.type", "did you mean 'lora'?"),
    ({"task": {"type": "text-clasification"}}, "task.type", "did you mean 'text-classification'?"),
    ({"evaluation": {"metrics": ["rougeL"]}}, "evaluation.metrics", "its metrics are accuracy, f1"),
    (
        {"task": {"type": "text-classification", "problem": "regression"}, "training": {"label_smoothing": 0.1}},
        "training.label_smoothing",
        "supports only 0.0 here",
    ),
]


@pytest.mark.parametrize(("parts", "param", "says"), MISFITS, ids=[param for _, param, _ in MISFITS])
def test_what_does_not_go_together_is_refused_with_what_does(
    http: httpx.Client, parts: dict[str, dict[str, object]], param: str, says: str
) -> None:
    error = refusal(http.post("/v1/jobs", json=spec(**parts)), 422)
    assert error["param"] == param
    assert says in error["message"]


def test_four_bits_are_refused_until_a_worker_has_a_gpu(http: httpx.Client, service: Deployment) -> None:
    asked = spec(training={"method": {"type": "qlora"}})
    error = refusal(http.post("/v1/jobs", json=asked), 422, "method_unavailable")
    assert (error["param"], "'lora' runs on any worker" in error["message"]) == ("training.method.type", True)
    database = Database(service.database_url)
    with database.write() as session:
        session.add(
            Worker(
                id="wrk_gpu",
                host="h",
                pid=1,
                version="1",
                queues="gpu",
                engines="trainer",
                slots=1,
                hardware={"gpus": [{"name": "H200", "memory_mib": 143771}]},
                started_at=time.time(),
                last_seen_at=time.time(),
            )
        )
    database.close()
    created = http.post("/v1/jobs", json=asked)
    assert created.status_code == 201, created.text
    assert created.json()["queue"] == "gpu"
