import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny import sentences
from transformers import pipeline

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid, verify
from worker.training.loop.pace import Pace
from worker.training.reports import Record

# TensorFlow takes seconds to start, and has its own tests of the same in test_tensorflow.py.
pytestmark = pytest.mark.parametrize("engine", ["trainer", "pytorch"])

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
Rows = Callable[[int], list[dict[str, Any]]]


def after_step(step: int) -> Callable[[Record], bool]:
    """Ask to stop once the loss of this step is logged, so that the next step is the last."""
    return lambda record: "loss" in record.get("values", {}) and record["step"] >= step


def test_a_job_succeeds_and_its_model_loads_with_plain_transformers(spec: Make, train: Train) -> None:
    done = train(spec(evaluation={"at_start": True}), job_id="job_1")
    assert done.result["status"] == "succeeded", done.result
    assert done.result["metrics"]["eval_accuracy"] == 1.0
    assert set(done.result["metrics"]) == {"eval_accuracy", "eval_f1", "eval_loss", "train_loss"}
    assert done.result["model_path"] == "model"
    phases = [record["phase"] for record in done.of("phase")]
    assert phases[:5] == ["preparing", "tokenizing", "training", "evaluating", "training"]
    assert list(done.series("eval_accuracy")) == [0, 6, 12]
    assert len(done.series("loss")) == 12
    assert {"loss", "learning_rate", "grad_norm"} <= set(done.of("metric")[1]["values"])
    classify = pipeline("text-classification", model=str(done.out_dir / "model"))
    assert classify("the film was awful")[0]["label"] == "bad"
    assert classify("the film was great")[0]["label"] == "good"


def test_the_model_folder_holds_card_job_predictions_and_report(spec: Make, train: Train) -> None:
    done = train(spec(name="films", evaluation={"at_start": True}), job_id="job_1")
    folder = done.out_dir / "model"
    manifest = verify(folder)
    assert {file.path for file in manifest.files} == {
        "README.md",
        "config.json",
        "evaluation/predictions.jsonl",
        "evaluation/report.json",
        "job.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert "| eval_accuracy | " in card
    assert "before training" in card
    job = json.loads((folder / "job.json").read_text())
    assert job["job_id"] == "job_1"
    assert job["resolved"]["labels"] == ["bad", "good"]
    assert job["datasets"]["train"] == done.resolved.datasets["train"]
    lines = [json.loads(line) for line in (folder / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == list(range(1, 11))
    assert all(line["label"] == line["predicted"] for line in lines)
    assert json.loads((folder / "evaluation" / "report.json").read_text())["good"]["rows"] == 5
    assert not (done.out_dir / "staging").exists()


def test_the_same_spec_gives_the_same_bytes(spec: Make, train: Train) -> None:
    assert train(spec(), "one").weights == train(spec(), "two").weights


def test_evaluation_does_not_change_training(spec: Make, train: Train) -> None:
    often = train(spec(evaluation={"strategy": "steps", "every": 1, "at_start": True, "best_by": "loss"}), "often")
    never = train(spec(evaluation={"strategy": "none"}), "never")
    assert often.series("loss") == never.series("loss")
    assert never.result["metrics"]["eval_accuracy"] == 1.0


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("logged", "stopped"),
    [(1, 2), (2, 2), (4, 4), (5, 6), (8, 8), (9, 10), (11, 12)],
    ids=[
        "mid-epoch",
        "in-evaluation",
        "in-later-evaluation",
        "epoch-end",
        "second-epoch-evaluation",
        "second-epoch",
        "last-step",
    ],
)
def test_a_stopped_and_resumed_run_ends_in_the_same_bytes(
    spec: Make, train: Train, logged: int, stopped: int, accumulation: int
) -> None:
    asked = spec(
        training={"gradient_accumulation": accumulation, "epochs": 2 * accumulation, "head_learning_rate": 0.02},
        evaluation={"strategy": "steps", "every": 4 if logged > 2 else 2, "best_by": "loss"},
        checkpoints={"strategy": "none"},
    )
    whole = train(asked, "whole")
    first = train(asked, "interrupted", after_step(logged))
    assert (first.result["status"], first.result["step"]) == ("stopped", stopped)
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == f"step-{first.result['step']:08d}"
    second = train(asked, "interrupted", resolved=first.resolved, resume_from=checkpoint)
    assert second.result["status"] == "succeeded"
    assert second.weights == whole.weights
    assert second.result["metrics"] == pytest.approx(whole.result["metrics"], rel=1e-6)
    assert first.series("eval_loss") | second.series("eval_loss") == whole.series("eval_loss")
    # It resolves nothing again. If it takes a step, it says what computed it.
    said = [] if stopped == whole.result["step"] else [first.of("resolved")[-1]["resolved"]]
    assert [record["resolved"] for record in second.of("resolved")] == said


def test_a_crashed_run_goes_on_from_its_newest_checkpoint_to_the_same_bytes(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(checkpoints={"strategy": "steps", "every": 4}, evaluation={"strategy": "steps", "every": 5})
    whole = train(asked, "whole")

    def greedy(pace: Pace) -> None:
        if pace._state.step == 10:  # noqa: SLF001 - where the pace is
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Pace, "tick", greedy)
        first = train(asked, "interrupted")
    assert first.result["error"]["code"] == "out_of_memory"
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "step-00000008"
    second = train(asked, "interrupted", resolved=first.resolved, resume_from=checkpoint)
    assert second.weights == whole.weights
    assert second.result["metrics"] == whole.result["metrics"]


def test_a_run_that_is_stopped_while_it_evaluates_evaluates_again(spec: Make, train: Train) -> None:
    whole = train(spec(), "whole")

    def at_first_evaluation(record: Record) -> bool:
        return record["type"] == "phase" and record["phase"] == "evaluating"

    first = train(spec(), "interrupted", at_first_evaluation)
    assert (first.result["status"], first.result["step"]) == ("stopped", 6)
    second = train(
        spec(), "interrupted", resolved=first.resolved, resume_from=newest_valid(first.out_dir / "checkpoints")
    )
    assert second.series("eval_loss") == whole.series("eval_loss")
    assert second.weights == whole.weights


@pytest.mark.parametrize("phase", ["preparing", "tokenizing", "packaging"])
def test_a_stop_is_heeded_in_every_phase(spec: Make, train: Train, phase: str) -> None:
    done = train(spec(), stop_when=lambda record: record.get("phase") == phase)
    # Packaging takes no time: it is finished.
    assert done.result["status"] == ("succeeded" if phase == "packaging" else "stopped")


def test_a_stop_after_the_last_step_finishes_where_no_checkpoint_holds_it(spec: Make, train: Train) -> None:
    asked = spec(evaluation={"strategy": "none"}, checkpoints={"strategy": "none"})
    done = train(asked, stop_when=lambda record: record.get("phase") == "evaluating")
    assert done.result["status"] == "succeeded"
    assert not list(done.out_dir.glob("checkpoints/*"))


def test_checkpoints_rotate_but_the_best_stays(spec: Make, train: Train) -> None:
    done = train(
        spec(
            training={"learning_rate": 0.3},
            evaluation={"strategy": "steps", "every": 3, "best_by": "loss"},
            checkpoints={"strategy": "steps", "every": 1, "keep": 2},
        )
    )
    assert len(done.of("checkpoint")) == 12
    losses = done.series("eval_loss")
    best = min(losses, key=losses.__getitem__)
    kept = {folder.name for folder in (done.out_dir / "checkpoints").iterdir()}
    assert kept == {f"step-{step:08d}" for step in (best, 11, 12)}
    assert done.result["metrics"]["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    assert [record["step"] for record in done.of("checkpoint") if record["is_best"]][-1] == best


def test_the_best_survives_a_resume(spec: Make, train: Train) -> None:
    # A model that is ever surer has an ever higher loss over rows of which some have the wrong label.
    wrong = [{**row, "label": "bad" if number < 6 else row["label"]} for number, row in enumerate(sentences(10))]
    asked = spec(
        data={"eval": {"rows": wrong}},
        evaluation={"strategy": "steps", "every": 2, "best_by": "accuracy"},
        training={"epochs": 3},
    )
    first = train(asked, stop_when=after_step(16))
    best = [record["step"] for record in first.of("checkpoint") if record["is_best"]][-1]
    assert best < first.result["step"] == 16
    second = train(asked, resolved=first.resolved, resume_from=newest_valid(first.out_dir / "checkpoints"))
    assert second.result["status"] == "succeeded"
    assert verify(second.out_dir / "model").step == best


def test_training_ends_early_when_nothing_gets_better(spec: Make, train: Train) -> None:
    done = train(
        spec(
            training={"epochs": 20, "early_stopping": {"patience": 2}},
            evaluation={"best_by": "accuracy"},
            checkpoints={"strategy": "none"},
        )
    )
    assert done.result["status"] == "succeeded"
    assert done.result["step"] < 120
    assert done.result["metrics"]["eval_accuracy"] == 1.0


def test_a_loss_that_is_no_number_fails_for_good(spec: Make, train: Train, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "tiny", tmp_path / "models" / "tiny")
    weights = tmp_path / "models" / "tiny" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embeddings.word_embeddings.weight"][6] = float("inf")
    save_file(tensors, weights, metadata={"format": "pt"})
    done = train(spec(), models_dir=tmp_path / "models")
    assert done.result["error"]["code"] == "loss_not_finite"
    assert done.result["retryable"] is False
    assert "learning_rate" in done.result["error"]["hint"]
    assert not done.of("checkpoint")


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        ("adamw", "linear"),
        ("adamw", "cosine"),
        ("adamw", "constant"),
        ("adamw", "constant_with_warmup"),
        ("adamw", "polynomial"),
        ("adamw", "inverse_sqrt"),
        ("adafactor", "linear"),
        ("sgd", "cosine"),
    ],
)
def test_every_optimizer_and_scheduler_trains(spec: Make, train: Train, optimizer: str, scheduler: str) -> None:
    done = train(
        spec(
            rows=8,
            training={"optimizer": optimizer, "scheduler": scheduler, "max_steps": 3, "warmup_steps": 1},
            evaluation={"strategy": "none"},
        )
    )
    assert done.result["status"] == "succeeded", done.result
    assert done.result["step"] == 3
    assert len(set(done.series("loss").values())) == 3


def test_options_of_training_change_the_weights(spec: Make, train: Train) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"label_smoothing": 0.2},
        {"class_weights": {"good": 5.0}},
        {"head_learning_rate": 0.1},
        {"weight_decay": 0.5},
        {"warmup_steps": 3},
        {"gradient_accumulation": 2, "max_steps": 4},
        {"seed": 7},
        {"max_grad_norm": 0.01, "optimizer": "sgd"},
    ]
    weights = [
        train(spec(rows=16, training={"max_steps": 4, **option}, evaluation={"strategy": "none"}), f"o{n}").weights
        for n, option in enumerate(options)
    ]
    assert len(set(weights)) == len(options)


def test_gradient_checkpointing_gives_the_same_loss(spec: Make, train: Train) -> None:
    plain = train(spec(training={"max_steps": 3}), "plain")
    thrifty = train(spec(training={"max_steps": 3, "gradient_checkpointing": True}), "thrifty")
    assert thrifty.result["status"] == "succeeded", thrifty.result
    assert thrifty.series("loss") == pytest.approx(plain.series("loss"), rel=1e-4)


def test_accumulated_gradients_equal_one_big_batch(spec: Make, train: Train) -> None:
    config = {"id": "local:tiny", "config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    training = {"epochs": 1, "class_weights": "balanced"}
    big = train(spec(model=config, training={**training, "batch_size": 12}), "big")
    parts = train(spec(model=config, training={**training, "batch_size": 4, "gradient_accumulation": 3}), "parts")
    assert parts.series("loss") == pytest.approx(big.series("loss"), rel=1e-3)


def test_the_test_split_is_evaluated_once_at_the_end(spec: Make, train: Train, rows: Rows) -> None:
    done = train(spec(data={"test": {"rows": rows(8)}}))
    assert done.result["metrics"]["test_accuracy"] == 1.0
    assert list(done.series("test_accuracy")) == [12]


def test_a_learning_rate_of_1_ends_with_warnings_in_job_and_card(spec: Make, train: Train) -> None:
    done = train(spec(training={"learning_rate": 1.0, "epochs": 6}))
    assert done.result["status"] == "succeeded", done.result
    warnings = done.of("preflight")[-1]["preflight"]["warnings"]
    assert any("eval_accuracy is 0.5, no better than" in warning for warning in warnings), warnings
    assert any("rose from" in warning for warning in warnings), warnings
    assert set(warnings) <= {note["message"] for note in done.of("note")}
    card = (done.out_dir / "model" / "README.md").read_text()
    assert "## Warnings\n\n- " in card


def test_a_run_that_learns_ends_without_warnings(spec: Make, train: Train, rows: Rows) -> None:
    done = train(spec(data={"eval": {"rows": [{**row, "text": f"{row['text']} indeed"} for row in rows(8)]}}))
    assert done.of("preflight")[-1]["preflight"]["warnings"] == []
    assert "## Warnings" not in (done.out_dir / "model" / "README.md").read_text()


def test_a_metric_that_is_undefined_is_null_with_a_note_and_is_never_the_best(spec: Make, train: Train) -> None:
    numbers = [{"text": text, "label": value} for text, value in (("great film", 0.5), ("awful film", -0.5)) * 4]
    asked = spec(
        task={"type": "text-classification", "problem": "regression"},
        data={"train": {"rows": numbers}, "eval": {"rows": numbers[:1]}},
        evaluation={"metrics": ["r2", "mse"], "best_by": "r2"},
        training={"epochs": 2},
    )
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    assert done.result["metrics"]["eval_r2"] is None
    assert done.result["metrics"]["eval_mse"] >= 0
    notes = [note["message"] for note in done.of("note") if "r2" in note["message"]]
    assert notes == ["eval_r2 is undefined for these 1 rows; it is reported as null"]
    assert not any(record["is_best"] for record in done.of("checkpoint"))
    assert "| eval_r2 | undefined |" in (done.out_dir / "model" / "README.md").read_text()


def test_a_model_of_an_earlier_job_can_be_trained_on(spec: Make, train: Train, tmp_path: Path) -> None:
    first = train(spec(), "first")
    job = "job_" + "a" * 26
    second = train(spec(model={"id": f"job:{job}"}), "second", jobs_models={job: first.out_dir / "model"})
    assert second.result["status"] == "succeeded", second.result
    assert second.series("loss")[1] < 0.5 * first.series("loss")[1]


def test_an_unforeseen_error_is_reported_and_may_be_retried(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("worker.training.run.package", broken)
    done = train(spec())
    assert done.result["error"]["code"] == "internal_error"
    assert done.result["retryable"] is True
    assert "surprise" in done.result["error"]["message"]


def test_a_listener_that_fails_does_not_fail_the_run(spec: Make, train: Train) -> None:
    def broken(_: Record) -> bool:
        raise OSError("the terminal is gone")

    assert train(spec(training={"max_steps": 2}), stop_when=broken).result["status"] == "succeeded"


def test_a_head_rate_without_a_new_head_is_noted(spec: Make, train: Train) -> None:
    first = train(spec(training={"max_steps": 2, "head_learning_rate": 0.02}), "first")
    assert not any("head_learning_rate" in note["message"] for note in first.of("note"))
    job = "job_" + "a" * 26
    asked = spec(model={"id": f"job:{job}"}, training={"max_steps": 2, "head_learning_rate": 0.02})
    second = train(asked, "second", jobs_models={job: first.out_dir / "model"})
    notes = [note["message"] for note in second.of("note")]
    assert any("head_learning_rate is not used" in note and "learning_rate 0.01" in note for note in notes)


def test_memory_that_runs_out_is_distinguished(spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("worker.training.run.package", greedy)
    assert train(spec()).result["error"]["code"] == "out_of_memory"
