"""The model card: what the model was made from, how well it does, and how to load it."""

import json
from typing import Any

from app.specs.data import HubData, UploadedData
from worker.training.export.markdown import code, plain, table
from worker.training.loop.state import TrainingState
from worker.training.planning.plan import Plan

HYPERPARAMETERS = (
    "engine",
    "method",
    "optimizer",
    "learning_rate",
    "head_learning_rate",
    "scheduler",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "label_smoothing",
    "class_weights",
    "seed",
)


def model_card(
    plan: Plan,
    state: TrainingState,
    metrics: dict[str, float | None],
    report: dict[str, dict[str, float]] | None,
) -> str:
    """The text of README.md, with the front matter that the hub reads."""
    title = plain(plan.spec.name or f"{plan.spec.model.id} fine-tuned")
    parts = [
        _front_matter(plan, metrics),
        f"# {title}",
        _summary(plan, state),
        "## Warnings\n\n" + "\n".join(f"- {plain(warning)}" for warning in plan.report.warnings)
        if plan.report.warnings
        else "",
        "## Results\n\n" + _results(state, metrics),
        "## In detail\n\n" + _details(report) if report else "",
        "## Data\n\n" + _data(plan),
        "## Training\n\n" + _training(plan),
        "## Use\n\n" + _use(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(plan: Plan, metrics: dict[str, float | None]) -> str:
    model = plan.spec.model.id
    library = "peft" if getattr(plan.spec.training.method, "export", "") == "adapter" else "transformers"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {plan.task.pipeline}"]
    if ":" not in model:
        lines += [f"base_model: {json.dumps(model)}"]
    hubs = [source.hub for _, source in _sources(plan) if isinstance(source, HubData)]
    if hubs:
        lines += ["datasets:", *(f"- {json.dumps(hub)}" for hub in dict.fromkeys(hubs))]
    lines += ["tags:", "- tunesmith", "- generated_from_tunesmith"]
    lines += ["metrics:", *(f"- {name}" for name in plan.resolved.metrics)]
    evaluated = {
        name: value for name, value in metrics.items() if value is not None and name.startswith(("eval_", "test_"))
    }
    if evaluated:
        lines += ["model-index:", f"- name: {json.dumps(plan.spec.name or model)}", "  results:"]
        lines += ["  - task:", f"      type: {plan.spec.task.type}", "    metrics:"]
        for name, value in evaluated.items():
            lines += [f"    - type: {name.partition('_')[2]}", f"      name: {name}", f"      value: {value:.6g}"]
    return "\n".join([*lines, "---"])


def _summary(plan: Plan, state: TrainingState) -> str:
    model, commit = plan.spec.model.id, plan.resolved.model_commit
    job = f" by the job {code(plan.job_id)}" if plan.job_id else ""
    which = f"the best by {state.best_by}, of step {state.best_step}" if state.best_step else "the last"
    return (
        f"A {plan.spec.task.type} model, fine-tuned from {code(model)}{f' at {code(commit)}' if commit else ''}{job}. "
        f"Training took {state.step} of {state.total_steps} steps ({state.epoch:.2f} epochs); "
        f"this is {which}."
    ) + (f"\n\nClasses: {', '.join(map(code, plan.resolved.labels))}" if plan.resolved.labels else "")


def _results(state: TrainingState, metrics: dict[str, float | None]) -> str:
    before = state.baseline
    if before is None:
        return table(("metric", "value"), ((name, _metric(value)) for name, value in metrics.items()))
    rows = ((name, _metric(before[name]) if name in before else "", _metric(value)) for name, value in metrics.items())
    return table(("metric", "before training", "after training"), rows)


def _metric(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _details(report: dict[str, dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in report.values() for name in row))
    rows = ((plain(name), *(_number(row.get(column)) for column in columns)) for name, row in report.items())
    return table(("", *columns), rows)


def _data(plan: Plan) -> str:
    rows = (
        (split, _named(plan, split), str(plan.resolved.rows.get(split, "streamed")), f"`{digest}`")
        for split, digest in plan.resolved.datasets.items()
    )
    skipped = f"\n\n{plan.resolved.skipped_rows} unusable rows were skipped." if plan.resolved.skipped_rows else ""
    return table(("split", "source", "rows", "SHA-256 of the rows"), rows) + skipped


def _training(plan: Plan) -> str:
    settings = plan.spec.training.model_dump(mode="json")
    resolved = plan.resolved
    rows = [(name, plain(json.dumps(settings[name]))) for name in HYPERPARAMETERS if settings[name] is not None]
    rows += [
        ("batch_tokens", str(resolved.batch_tokens))
        if resolved.batch_tokens
        else ("batch_size", str(resolved.batch_size)),
        ("gradient_accumulation", str(resolved.gradient_accumulation)),
        ("total_steps", str(resolved.total_steps)),
        ("max_length", str(resolved.max_length)),
        ("precision", resolved.precision),
        ("device", resolved.device),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in resolved.versions.items())
    return f"{table(('setting', 'value'), rows)}\n\nVersions: {versions}"


def _use(plan: Plan) -> str:
    is_adapter = getattr(plan.spec.training.method, "export", "") == "adapter"
    script = _onto_base(plan) if is_adapter else plan.task.use(plan.spec).strip()
    return f"```python\n{script}\n```".replace("FOLDER", "PATH/TO/THIS/FOLDER")


def _onto_base(plan: Plan) -> str:
    kind, labels = plan.task.model_class.__name__, plan.resolved.labels
    is_number = plan.spec.task.target_role is not None and not plan.spec.task.has_classes
    head = f", num_labels={len(labels)}, id2label={dict(enumerate(labels))}" if labels else ""
    head = ", num_labels=1" if is_number else head
    base = plan.spec.model.id if ":" not in plan.spec.model.id else "PATH/TO/THE/BASE/MODEL"
    return (
        f"from peft import PeftModel\nfrom transformers import AutoTokenizer, {kind}\n\n"
        f'base = {kind}.from_pretrained("{base}"{head})\n'
        'model = PeftModel.from_pretrained(base, "FOLDER")\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    )


def _named(plan: Plan, split: str) -> str:
    source = dict(_sources(plan)).get(split)
    if source is None:
        return "held out of train"
    if isinstance(source, UploadedData):
        return f"dataset {code(source.dataset)}"
    if isinstance(source, HubData):
        commit = plan.resolved.dataset_commits.get(split)
        config = f", config {code(source.config)}" if source.config else ""
        return f"hub {code(source.hub)}{config}, split {code(source.split)}{f' at {code(commit)}' if commit else ''}"
    return "rows of the spec"


def _sources(plan: Plan) -> list[tuple[str, Any]]:
    data = plan.spec.data
    return [
        (name, source) for name, source in (("train", data.train), ("eval", data.eval), ("test", data.test)) if source
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
