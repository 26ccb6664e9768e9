"""Every task describes itself whole, in its two files, before anything is trained."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import transformers

from app.specs import TASKS as SPECS
from app.specs import JobSpec
from app.specs.engines import ENGINE_FACTS
from app.specs.methods import METHOD_FACTS
from app.specs.tasks.base import Role
from app.specs.tasks.text_classification import TextClassification
from worker.training.evaluation.metrics import Metrics, greater_is_better
from worker.training.tasks import TASKS
from worker.training.tasks.protocol import Task

ROOT = Path(__file__).parents[2]
DEFAULTED = ("check", "reference", "report", "finish", "chance")
"""What a task need not write."""


def lacks(name: str) -> list[str]:
    """What a task lacks, in words."""
    spec, task = SPECS[name], TASKS.get(name)
    if task is None:
        return ["a worker half"]
    required = [
        member
        for member in vars(Task)
        if not member.startswith("_") and member not in DEFAULTED and callable(getattr(Task, member))
    ]
    defined: dict[str, Any] = vars(type(task))
    missing = [f"the method {member}" for member in required if member not in defined]
    missing += [
        f"the attribute {name}" for name in ("metrics", "pipeline", "model_class", "peft_type") if name not in defined
    ]
    missing += [f"the metric {metric}" for metric in spec.all_metrics() if metric not in task.metrics]
    missing += [] if spec.name() == name else [f"the type {name}"]
    missing += [] if (spec.__doc__ or "").strip() else ["a description"]
    missing += [f"usual names of the role {role.name}" for role in spec.known_roles if not role.usual_names]
    missing += [f"a known engine instead of {engine}" for engine in spec.engines if engine not in ENGINE_FACTS]
    missing += [f"a known method instead of {method}" for method in spec.methods if method not in METHOD_FACTS]
    missing += [] if (ROOT / "docs" / "tasks" / f"{name}.md").is_file() else [f"docs/tasks/{name}.md"]
    missing += [] if any((ROOT / "examples").glob(f"{name}*.json")) else [f"examples/{name}.json"]
    missing += [] if "reference" in defined or not task.needs_reference_model else ["the method reference"]
    return missing


def test_both_registries_name_the_same_tasks() -> None:
    assert list(SPECS) == list(TASKS)


@pytest.mark.parametrize("name", SPECS)
def test_a_task_lacks_nothing(name: str) -> None:
    assert lacks(name) == []


@pytest.mark.parametrize("name", SPECS)
def test_its_example_is_a_job_of_this_task(name: str) -> None:
    asked = JobSpec.model_validate(dict(SPECS[name].example))
    assert asked.task.type == name
    assert isinstance(greater_is_better(asked.best_by), bool)


@pytest.mark.parametrize("name", SPECS)
def test_its_model_class_is_one_of_transformers_and_peft_knows_its_type(name: str) -> None:
    from peft import TaskType

    assert hasattr(transformers, TASKS[name].model_class.__name__)
    assert TASKS[name].peft_type is None or TASKS[name].peft_type in TaskType.__members__


def test_what_a_task_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Task):
        """A task that was only begun."""

        metrics: ClassVar[Metrics] = {}
        pipeline: ClassVar[str] = "text-classification"

    monkeypatch.setitem(TASKS, "seq2seq", Half())
    found = lacks("seq2seq")
    assert {"the method encode", "the method training_step", "the attribute model_class", "the metric rougeL"} <= set(
        found
    )
    monkeypatch.delitem(TASKS, "seq2seq")
    assert lacks("seq2seq") == ["a worker half"]


def test_the_target_is_the_target_role_that_the_options_choose() -> None:
    class Either(TextClassification):
        """Learns from one of two columns."""

        known_roles: ClassVar[tuple[Role, ...]] = (
            Role("text"),
            Role("label", is_target=True),
            Role("score", is_required=False, is_target=True),
        )

        @property
        def roles(self) -> tuple[str, ...]:
            return ("text", "score" if self.problem == "regression" else "label")

    assert Either(type="text-classification").target_role == "label"
    assert Either(type="text-classification", problem="regression").target_role == "score"
    assert SPECS["causal-lm"](type="causal-lm").target_role is None
