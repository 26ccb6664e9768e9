import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import make_model
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from app.specs import JobSpec
from worker.training.evaluation.prediction import training_step
from worker.training.loop.feed import learned
from worker.training.methods import load_trainable
from worker.training.planning.initial import InitialModel

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
LORA = {"type": "lora", "rank": 4, "alpha": 8}


@pytest.fixture(params=["trainer", "pytorch"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


def logits(model: Any, folder: Path, done: Any) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [line["text"] for line in predictions(done)]
    with torch.no_grad():
        return model.eval()(**tokenizer(texts, return_tensors="pt", padding=True)).logits


def predictions(done: Any) -> list[dict[str, Any]]:
    path = done.out_dir / "model" / "evaluation" / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_merged_lora_is_a_plain_model(spec: Make, train: Train) -> None:
    done = train(spec(training={"method": LORA, "epochs": 4}, evaluation={"at_start": True}))
    assert done.result["status"] == "succeeded", done.result
    losses = done.series("loss")
    assert losses[max(losses)] < losses[1]
    folder = done.out_dir / "model"
    assert not list(folder.glob("adapter*"))
    found = logits(AutoModelForSequenceClassification.from_pretrained(folder), folder, done).softmax(-1).max(-1).values
    assert found.tolist() == pytest.approx([line["score"] for line in predictions(done)], abs=1e-4)


def test_an_adapter_alone_is_small_and_goes_onto_its_base(spec: Make, train: Train, models_dir: Path) -> None:
    done = train(spec(training={"method": {**LORA, "export": "adapter"}}))
    assert done.result["status"] == "succeeded", done.result
    folder = done.out_dir / "model"
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "local:tiny"
    assert str(models_dir) not in "".join(
        path.read_text() for path in folder.rglob("*.*") if path.suffix in {".json", ".md"}
    )
    labels = done.resolved.labels
    base = AutoModelForSequenceClassification.from_pretrained(models_dir / "tiny", num_labels=len(labels))
    found = logits(PeftModel.from_pretrained(base, folder), folder, done)
    assert [labels[best] for best in found.argmax(-1)] == [line["predicted"] for line in predictions(done)]


def test_a_checkpoint_holds_the_matrices_and_the_head_alone(spec: Make, train: Train) -> None:
    done = train(spec(training={"method": LORA}))
    checkpoint = max((done.out_dir / "checkpoints").iterdir())
    names = set(load_file(checkpoint / "adapter_model.safetensors"))
    assert not (checkpoint / "model.safetensors").exists()
    assert {name.split(".")[-2] for name in names} == {"lora_A", "lora_B", "classifier"}


def test_resuming_ends_where_an_undisturbed_run_does(spec: Make, train: Train) -> None:
    asked = spec(training={"method": {**LORA, "dropout": 0.1}}, checkpoints={"strategy": "steps", "every": 3})
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 4)
    assert stopped.result["status"] == "stopped"
    checkpoint = max((stopped.out_dir / "checkpoints").iterdir())
    again = train(asked, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.result["status"] == "succeeded", again.result
    assert again.weights == whole.weights


def test_a_new_pooler_is_trained_beside_a_frozen_body_and_still_after_a_resume(
    spec: Make, train: Train, models_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models_dir / "tiny")
    for part in (AutoModel.from_pretrained(models_dir / "tiny", add_pooling_layer=False), tokenizer):
        part.save_pretrained(models_dir / "without-pooler")
    asked = spec(
        model={"id": "local:without-pooler"},
        training={"method": {"type": "freeze"}},
        checkpoints={"strategy": "steps", "every": 3},
    )
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 4)
    checkpoint = max((stopped.out_dir / "checkpoints").iterdir())
    again = train(asked, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.result["status"] == "succeeded", again.result
    assert again.weights == whole.weights


def test_unknown_target_modules_are_refused_with_those_there_are(spec: Make, train: Train) -> None:
    error = train(spec(training={"method": {**LORA, "target_modules": ["querry"]}})).result["error"]
    assert error["code"] == "model_config_invalid"
    assert "query" in error["hint"]


def test_freezing_all_leaves_the_body_as_it_was(spec: Make, train: Train, models_dir: Path) -> None:
    done = train(spec(training={"method": {"type": "freeze"}, "epochs": 8, "learning_rate": 0.05}))
    assert done.result["status"] == "succeeded", done.result
    before, after = (
        load_file(models_dir / "tiny" / "model.safetensors"),
        load_file(done.out_dir / "model" / "model.safetensors"),
    )
    same = {name for name, weight in before.items() if torch.equal(weight, after[f"bert.{name}"])}
    # The pooler of the tiny model comes with it.
    assert same == set(before)
    losses = list(done.series("loss").values())
    assert sum(losses[-6:]) < sum(losses[:6])


def test_freezing_the_first_layer_tunes_the_second(spec: Make, train: Train, models_dir: Path) -> None:
    done = train(spec(training={"method": {"type": "freeze", "layers": 1}, "max_steps": 2}))
    before, after = (
        load_file(models_dir / "tiny" / "model.safetensors"),
        load_file(done.out_dir / "model" / "model.safetensors"),
    )
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[f"bert.{name}"])}
    assert moved
    assert all(name.startswith(("encoder.layer.1.", "pooler.")) for name in moved)


def test_more_layers_than_there_are_cannot_be_frozen(spec: Make, train: Train) -> None:
    error = train(spec(training={"method": {"type": "freeze", "layers": 3}})).result["error"]
    assert (error["code"], "has 2 layers" in error["message"]) == ("model_config_invalid", True)


def test_matrices_over_four_bits_learn_on_a_processor_too(
    spec: Make, plan: Callable[[JobSpec], Any], models_dir: Path
) -> None:
    # A job of this kind always gets a GPU; without one this shows what can be shown of it: the loading and the learning.
    make_model(models_dir / "wide", hidden_size=128, intermediate_size=256)
    four_bits = {**LORA, "type": "qlora"}
    asked = spec(model={"id": "local:wide"}, training={"method": four_bits}, resources={"gpus": "auto"})
    as_lora = spec(model={"id": "local:wide"}, training={"method": LORA})
    ready = plan(as_lora)
    ready = replace(ready, spec=asked, initial=InitialModel(ready.initial.folder, ready.head))
    model = load_trainable(ready)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "Linear4bit" in kinds
    batch = ready.task.collate(ready.tokenizer, asked, 16)([learned(ready)[place] for place in range(4)])
    step = training_step(ready)
    tuned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(tuned, lr=0.01)
    losses = []
    for _ in range(20):
        value = step(model, batch).loss_sum / batch.num_items
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
