"""Keras in its own environment: the numbers of the other engines, the same protocol, and results that PyTorch confirms."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from keras_environment import tensorflow_python
from safetensors.torch import load_file, save_file
from tiny import sentences
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid, verify
from worker.training.engines.tensorflow import ARCHITECTURES, compare
from worker.training.errors import ModelRefused, ResultDiffers
from worker.training.evaluation.prediction import forward, gather, training_step
from worker.training.planning.plan import Plan
from worker.training.reports import Record

Make = Callable[..., JobSpec]
Train = Callable[..., Any]

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FULL = {"warmup_steps": 3, "weight_decay": 0.1, "max_grad_norm": 0.5, "scheduler": "cosine"}
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
tokens = {name: tf.constant(values, tf.int32) for name, values in json.loads(sys.argv[2]).items()}
print(json.dumps(served(**tokens)["logits"].numpy().tolist()))
"""


@pytest.fixture
def engine() -> str:
    return "tensorflow"


def after_step(step: int) -> Callable[[Record], bool]:
    """Ask to stop in time for this step to be the last: its predecessor's loss is logged when that one is over."""
    return lambda record: "loss" in record.get("values", {}) and record["step"] >= step - 1


@pytest.mark.parametrize(
    "training",
    [
        {"epochs": 3},
        {"epochs": 3, "gradient_accumulation": 4, **FULL},
        {"optimizer": "sgd", "learning_rate": 0.1, "label_smoothing": 0.1, "class_weights": "balanced"},
    ],
    ids=["defaults", "accumulation, clipping, warm-up, decay", "sgd, smoothing, weights"],
)
def test_its_losses_are_those_of_pytorch_step_by_step(spec: Make, train: Train, training: dict[str, Any]) -> None:
    # 22 rows: the last batch of an epoch is ragged, and so is its last accumulation.
    native, ours = [
        train(
            spec(
                rows=22,
                model={"id": "local:tiny", "config": WITHOUT_DROPOUT},
                training={"engine": engine, **training},
                evaluation={"best_by": "loss"},
            ),
            engine,
        )
        for engine in ("pytorch", "tensorflow")
    ]
    assert ours.result["status"] == "succeeded", ours.result
    assert len(ours.series("loss")) == len(native.series("loss")) > 5
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy"):
        assert ours.series(name) == pytest.approx(native.series(name), rel=1e-4, abs=1e-6), name
    assert ours.result["metrics"] == pytest.approx(native.result["metrics"], rel=1e-4)


def test_a_job_ends_in_a_folder_for_plain_transformers_with_a_saved_model_beside_it(spec: Make, train: Train) -> None:
    done = train(spec(evaluation={"at_start": True}, export=["saved_model"]), job_id="job_1")
    assert done.result["status"] == "succeeded", done.result
    assert done.result["metrics"]["eval_accuracy"] == 1.0
    losses = done.series("loss")
    assert len(losses) == 12
    assert losses[12] < losses[1]
    assert list(done.series("eval_accuracy")) == [0, 6, 12]
    assert done.resolved.attention.name == "eager"
    folder = done.out_dir / "model"
    files = {file.path for file in verify(folder).files}
    assert {"model.safetensors", "config.json", "README.md", "job.json", "saved_model/saved_model.pb"} <= files
    assert not any("tensorflow_state" in path for path in files)
    versions = json.loads((folder / "job.json").read_text())["versions"]
    assert versions["tensorflow"].startswith("2.")
    classify = pipeline("text-classification", model=str(folder))
    rows = sentences(4)
    texts = [row["text"] for row in rows]
    assert [found["label"] for found in classify(texts)] == [row["label"] for row in rows]

    tokens = dict(AutoTokenizer.from_pretrained(folder)(texts))
    served = subprocess.run(
        [tensorflow_python(), "-c", SERVE, folder / "saved_model", json.dumps(tokens)],
        capture_output=True,
        text=True,
        check=True,
    )
    with torch.no_grad():
        expected = classify.model(**{name: torch.tensor(values) for name, values in tokens.items()}).logits
    assert np.array(json.loads(served.stdout.splitlines()[-1])) == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_run_that_is_stopped_in_an_epoch_ends_where_an_undisturbed_one_does(spec: Make, train: Train) -> None:
    # Dropout is on: its random numbers must go on where they were.
    asked = spec(
        rows=18, data={"eval": None}, training={"gradient_accumulation": 2, **FULL}, checkpoints={"strategy": "none"}
    )
    whole = train(asked, "whole")
    assert whole.result["step"] == 6
    first = train(asked, "interrupted", after_step(2))
    assert (first.result["status"], first.result["step"]) == ("stopped", 2)
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    assert checkpoint is not None
    again = train(asked, "interrupted", resolved=first.resolved, resume_from=checkpoint)
    assert again.result["status"] == "succeeded", again.result
    assert list(again.series("loss")) == [3, 4, 5, 6]
    assert again.series("loss") == {step: loss for step, loss in whole.series("loss").items() if step > 2}
    assert again.weights == whole.weights
    assert again.result["metrics"] == pytest.approx(whole.result["metrics"])


def test_smaller_batches_go_on_over_the_same_rows(spec: Make, train: Train) -> None:
    asked = spec(
        rows=18,
        model={"id": "local:tiny", "config": WITHOUT_DROPOUT},
        data={"eval": None},
        training={"learning_rate": 0.001},
        checkpoints={"strategy": "none"},
    )
    whole = train(asked, "whole")
    first = train(asked, "interrupted", after_step(2))
    halved = first.resolved.model_copy(update={"batch_size": 2, "gradient_accumulation": 2})
    again = train(asked, "interrupted", resolved=halved, resume_from=newest_valid(first.out_dir / "checkpoints"))
    assert again.result["step"] == whole.result["step"] == 10
    expected = {step: loss for step, loss in whole.series("loss").items() if step > 2}
    assert again.series("loss") == pytest.approx(expected, rel=2e-3)


def test_a_stop_while_it_loads_or_evaluates_ends_soon_and_loses_nothing(spec: Make, train: Train) -> None:
    asked = spec(rows=16, evaluation={"strategy": "steps", "every": 2}, training={"epochs": 1})
    early = train(asked, "early", lambda record: record.get("phase") == "training")
    assert (early.result["status"], early.result["step"]) == ("stopped", 0)
    assert newest_valid(early.out_dir / "checkpoints") is None
    late = train(asked, "late", lambda record: record.get("phase") == "evaluating")
    assert (late.result["status"], late.result["step"]) == ("stopped", 2)
    again = train(asked, "late", resolved=late.resolved, resume_from=newest_valid(late.out_dir / "checkpoints"))
    assert again.result["status"] == "succeeded", again.result
    assert next(iter(again.series("eval_accuracy"))) == 2


def test_a_process_that_is_killed_is_an_error_that_another_attempt_mends(spec: Make, train: Train) -> None:
    def kill(record: Record) -> bool:
        if record["type"] == "progress":
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            keras = [pid for pid in children if b"training/keras" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(int(keras[0]), signal.SIGKILL)
        return False

    done = train(spec(), stop_when=kill, tensorflow_python=tensorflow_python())
    assert done.result["status"] == "failed"
    assert done.result["error"]["code"] == "training_process_died"
    assert done.result["retryable"] is True


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_architecture_goes_there_and_back(kind: str, spec: Make, train: Train, models_dir: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 40, "dim": 32, "n_layers": 2, "n_heads": 2,
        "hidden_dim": 64, "vocab_size": 32, "type_vocab_size": 2, "pad_token_id": 0, "num_hidden_groups": 1,
    }  # fmt: skip
    taken = set(AutoConfig.for_model(kind).to_dict()) | {"hidden_size", "num_hidden_layers", "num_attention_heads"}
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, **{name: size for name, size in sizes.items() if name in taken})
    folder = models_dir / kind
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "tiny")
    if kind in ("distilbert", "mpnet"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if "roberta" in kind or kind == "camembert":
        # TensorFlow's classes number positions from 2 whatever the padding id; PyTorch's only with padding id 1.
        tokenizer.pad_token = "[UNK]"
    tokenizer.save_pretrained(folder)
    done = train(spec(model={"id": f"local:{kind}"}, training={"max_steps": 2, "learning_rate": 1e-3}))
    assert done.result["status"] == "succeeded", done.result["error"]


def test_an_architecture_that_it_cannot_do_is_refused_with_what_it_can(
    spec: Make, train: Train, models_dir: Path
) -> None:
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=32, n_positions=32)
    AutoModel.from_config(config).save_pretrained(models_dir / "gpt")
    AutoTokenizer.from_pretrained(models_dir / "tiny").save_pretrained(models_dir / "gpt")
    done = train(spec(model={"id": "local:gpt"}))
    error = done.result["error"]
    assert (error["code"], done.result["retryable"]) == ("architecture_unsupported", False)
    assert "gpt2" in error["message"]
    assert "distilbert" in error["message"]
    assert '"pytorch"' in error["hint"]


def test_without_the_environment_the_job_says_how_to_get_it(spec: Make, train: Train, tmp_path: Path) -> None:
    done = train(spec(), tensorflow_python=tmp_path / "nothing")
    assert done.result["error"]["code"] == "engine_missing"
    assert "make install-tensorflow" in done.result["error"]["hint"]


def test_a_result_that_pytorch_does_not_confirm_is_refused(
    spec: Make, plan: Callable[[JobSpec], Plan], tmp_path: Path
) -> None:
    ready = plan(spec())
    probed = replace(ready, encoded={**ready.encoded, "probe": ready.encoded["eval"]}, stop=Event())
    model = ready.task.load_model(ready.initial.folder, ready.spec)
    logits = gather(forward(model, probed, "probe", training_step(ready)), len(sentences(10))).each
    logits = np.stack(logits)
    compare(probed, ready.initial.folder, logits)
    compare(probed, ready.initial.folder, logits + 5e-5)

    weights = load_file(ready.initial.folder / "model.safetensors")
    for name, tampered in {
        "changed": {**weights, "classifier.bias": weights["classifier.bias"] + 0.001},
        "short": {key: weight for key, weight in weights.items() if key != "classifier.bias"},
        "long": {**weights, "classifier.scale": torch.ones(2)},
    }.items():
        shutil.copytree(ready.initial.folder, tmp_path / name)
        save_file(tampered, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ResultDiffers, match=r"up to 0\.001"):
        compare(probed, tmp_path / "changed", logits)
    with pytest.raises(ModelRefused, match=r"classifier\.bias"):
        compare(probed, tmp_path / "short", logits)
    with pytest.raises(ModelRefused, match=r"classifier\.scale"):
        compare(probed, tmp_path / "long", logits)
