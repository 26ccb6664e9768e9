"""Every task, as its users run it: posted over HTTP, trained by a worker, downloaded, and loaded by plain libraries."""

import json
from pathlib import Path
from typing import Any

from deployment import Deployment
from kinds import KINDS, Kind

from app.specs import TASKS


def test_a_job_of_every_task_ends_with_a_model_that_plain_libraries_load(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    local.start_worker()
    for task, kind in KINDS.items():
        kind.make_model(local.folder / "models" / task)
    jobs = {task: local.client.post("/v1/jobs", body(task, KINDS[task]))["id"] for task in TASKS}
    for task, job_id in jobs.items():
        job = local.wait_for_end(job_id, 300)
        assert job["status"] == "succeeded", (task, job["error"])
        assert job["preflight"].keys() == {"data", "tokens", "steps", "warnings"}, task
        assert job["preflight"]["steps"]["eta_seconds"] > 0, task
        # Where the conformance suite has the model before and after training.
        own = tmp_path / task
        (own / "models").mkdir(parents=True)
        (own / "models" / "tiny").symlink_to(local.folder / "models" / task)
        model = own / "out" / "model"
        local.tunesmith("download", job_id, str(model))
        lines = (model / "evaluation" / "predictions.jsonl").read_text().splitlines()
        KINDS[task].agrees(model, [json.loads(line) for line in lines])


def body(task: str, kind: Kind) -> dict[str, Any]:
    return {
        "task": {"type": task, **kind.task},
        "model": f"local:{task}",
        "data": {"train": {"rows": kind.rows(kind.train)}, "eval": {"rows": kind.rows(kind.evaluation)}},
        "training": {"batch_size": 8, **kind.training},
        "resources": {"gpus": 0},
    }
