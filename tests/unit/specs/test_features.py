"""What a job uses is derived from its spec, what a version knows from its models."""

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, create_model
from tiny import spec

from app.specs import TASKS, JobSpec, Resolved, features
from app.specs.features import LOCAL_MODEL, known_features, used_features
from app.specs.training import Training


def used(**parts: Any) -> set[str]:
    return set(used_features(JobSpec.model_validate(spec(**parts))))


@pytest.mark.parametrize("name", TASKS)
def test_this_version_knows_what_the_example_of_every_task_uses(name: str) -> None:
    found = used_features(JobSpec.model_validate(dict(TASKS[name].example)))
    assert f"task={name}" in found
    assert {feature for feature in found if not feature.startswith(LOCAL_MODEL)} <= known_features()


def test_a_job_uses_what_differs_from_the_defaults_and_always_its_engine() -> None:
    plain = used(training={"epochs": 3.0, "scheduler": "linear"})
    assert plain & {"training.epochs", "training.scheduler=linear", "training.engine=trainer"} == {
        "training.engine=trainer"
    }
    asked = used(
        training={
            "scheduler": "cosine",
            "early_stopping": {"patience": 2, "min_delta": 0.1},
            "method": {"type": "lora"},
        },
        evaluation={"metrics": ["f1"]},
    )
    assert asked - plain == {
        "training.scheduler=cosine",
        "training.early_stopping",
        "training.early_stopping.min_delta",
        "training.method",
        "training.method=lora",
        "task.type=text-classification with training.engine=trainer and training.method.type=lora",
        "evaluation.metrics",
        "evaluation.metrics=f1 of text-classification",
    }


def test_the_same_field_of_two_tasks_is_two_features() -> None:
    known = known_features()
    assert {"task[causal-lm].packing", "task[seq2seq].prefix"} <= known
    assert not {"task.packing", "task[seq2seq].packing"} & known


def test_a_local_model_is_a_feature_of_the_workers_that_have_it() -> None:
    assert "model.id=local:tiny" in used()
    assert not [feature for feature in used(model="someone/model") if feature.startswith("model")]


def test_what_only_the_service_reads_is_no_feature() -> None:
    assert used(name="x", metadata={"a": "b"}, priority=3, resources={"timeout": "1h"}) - used() == {"resources"}


def test_a_worker_without_an_engine_knows_neither_it_nor_what_is_done_with_it() -> None:
    without = known_features(("trainer", "pytorch"))
    assert known_features() - without == {
        "training.engine=tensorflow",
        "task.type=text-classification with training.engine=tensorflow and training.method.type=full",
    }


def test_a_field_or_value_that_a_newer_version_adds_is_a_feature_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    old = known_features()
    newer_training = create_model(
        "NewerTraining",
        __base__=Training,
        loss_scale=(float, Field(default=1.0)),
        optimizer=(Literal["adamw", "adafactor", "sgd", "lion"], "adamw"),
    )
    newer = create_model(
        "NewerSpec", __base__=JobSpec, training=(newer_training, Field(default_factory=newer_training))
    )
    monkeypatch.setattr(features, "JobSpec", newer)
    features._fields.cache_clear()
    try:
        added = known_features() - old
    finally:
        monkeypatch.undo()
        features._fields.cache_clear()
    assert added == {"training.loss_scale", "training.optimizer=lion"}
    default = newer.model_validate(spec())
    assert set(used_features(default)) - {"model.id=local:tiny"} <= old
    asked = newer.model_validate(spec(training={"loss_scale": 2.0, "optimizer": "lion"}))
    assert set(used_features(asked)) - {"model.id=local:tiny"} - old == added


def test_a_request_is_read_strictly_and_a_stored_spec_leniently() -> None:
    later = spec(training={"later": 1}, task={"later": {}}, later=None)
    later["data"]["train"]["later"] = True
    with pytest.raises(ValidationError, match="unknown field"):
        JobSpec.model_validate(later)
    assert JobSpec.from_stored(later) == JobSpec.model_validate(spec())
    with pytest.raises(ValidationError, match="learning_rate"):
        JobSpec.from_stored(spec(training={"learning_rate": "0.1"}))


def test_what_a_newer_worker_settled_is_read_without_what_it_added() -> None:
    settled: dict[str, Any] = {
        "labels": [], "precision": "fp32", "batch_size": 1, "gradient_accumulation": 1, "eval_batch_size": 1, "device": "cpu",
        "max_length": 8, "total_steps": 1, "metrics": [], "best_by": None, "model_commit": None, "datasets": {}, "rows": {},
        "skipped_rows": 0, "versions": {},
    }  # fmt: skip
    assert Resolved.read({**settled, "later": 1}, 1) == Resolved.read(settled, 1)
