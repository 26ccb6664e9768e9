from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.specs import JobSpec
from worker.training.request import TrainingRequest


def test_a_request_travels_as_json(spec: Callable[..., JobSpec], train: Callable[..., Any]) -> None:
    asked = spec(name="n", training={"class_weights": {"good": 2.0}, "early_stopping": {"patience": 1}})
    request = TrainingRequest(
        spec=asked,
        out_dir=Path("/out"),
        datasets={"ds_1": Path("/a.parquet")},
        models_dir=Path("/models"),
        jobs_models={"job_1": Path("/job")},
        resolved=train(asked).resolved,
        resume_from=Path("/out/checkpoints/step-00000001"),
        job_id="job_2",
        threads=2,
        token_cache=Path("/cache/tokens"),
        token_cache_bytes=7,
    )
    assert TrainingRequest.from_json(request.to_json()) == request
    bare = TrainingRequest(asked, Path("/out"), {}, None, {}, None, None)
    assert TrainingRequest.from_json(bare.to_json()) == bare
