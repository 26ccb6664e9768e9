"""A checkpoint is written while training goes on, and holds what there was at its step."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Adafactor, BertConfig, BertModel

from app.specs import JobSpec
from worker.training.checkpoints import folders, snapshot
from worker.training.checkpoints.folders import newest_valid
from worker.training.checkpoints.snapshot import OPTIMIZER, OPTIMIZER_BEFORE, Snapshot, load_optimizer
from worker.training.reports import Record

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, fused=True),
    "adafactor": lambda weights: Adafactor(weights, lr=0.01, scale_parameter=False, relative_step=False),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01),
    "sgd with momentum": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
}
CPU = torch.device("cpu")


def model() -> BertModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=20, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape))


def step(trained: BertModel, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    trained(torch.arange(10)[None]).last_hidden_state.square()[..., 0].sum().backward()
    optimizer.step()


def weights(trained: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in trained.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer_of", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_later_steps_change_nothing_and_what_is_read_goes_on_alike(
    optimizer_of: Callable[[Any], torch.optim.Optimizer], tmp_path: Path
) -> None:
    trained = model()
    optimizer = optimizer_of(trained.parameters())
    step(trained, optimizer)
    before, taken = weights(trained), Snapshot(trained, optimizer)
    assert taken.is_copied
    step(trained, optimizer)
    taken.write(tmp_path)
    read = BertModel.from_pretrained(tmp_path)
    assert same(weights(read), before)
    resumed = optimizer_of(read.parameters())
    load_optimizer(resumed, tmp_path, CPU)
    step(read, resumed)
    assert same(weights(read), weights(trained))


def test_frozen_weights_are_not_copied() -> None:
    trained = model()
    trained.embeddings.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD([weight for weight in trained.parameters() if weight.requires_grad])
    held = Snapshot(trained, optimizer)._weights  # noqa: SLF001 - memory is what it saves
    shared = {name for name, weight in trained.state_dict().items() if held[name].data_ptr() == weight.data_ptr()}
    assert shared == {name for name, weight in trained.named_parameters() if name.startswith("embeddings.")}


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_without_room_for_a_copy_training_waits(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    asked = spec(data={"eval": None}, training={"max_steps": 6}, checkpoints={"strategy": "steps", "every": 2})
    whole = train(asked, "copied")
    monkeypatch.setattr(snapshot, "_has_room_for", lambda _: False)
    again = train(asked, "not copied")
    assert again.weights == whole.weights
    written = [newest_valid(run.out_dir / "checkpoints") for run in (whole, again)]
    files = [(folder / OPTIMIZER).read_bytes() for folder in written if folder is not None]
    assert len(files) == len(written)
    assert files[0] == files[1]


def test_room_is_what_is_left_at_the_peak_and_under_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "/proc/self/status": {"VmHWM": 900, "VmRSS": 400, "VmData": 700},
        "/proc/meminfo": {"MemAvailable": 1000},
    }
    monkeypatch.setattr(snapshot, "_bytes_by_name", facts.__getitem__)
    limits = SimpleNamespace(RLIMIT_DATA=0, RLIM_INFINITY=-1, getrlimit=lambda _: (-1, -1))
    monkeypatch.setattr(snapshot, "resource", limits)
    has_room: Callable[[int], bool] = snapshot._has_room_for  # noqa: SLF001
    assert has_room(499)
    assert not has_room(500)
    limits.getrlimit = lambda _: (1000, 1000)
    assert has_room(99)
    assert not has_room(100)


@pytest.fixture
def held_commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No checkpoint is committed before this event is set."""
    released = threading.Event()

    def commit(*arguments: Any) -> Any:
        assert released.wait(60)
        return folders.commit(*arguments)

    monkeypatch.setattr("worker.training.checkpoints.checkpoint_manager.commit", commit)
    yield released
    released.set()


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_training_does_not_wait_for_the_disk(
    spec: Make, train: Train, engine: str, held_commit: threading.Event
) -> None:
    asked = spec(data={"eval": None}, training={"max_steps": 6}, checkpoints={"strategy": "steps", "every": 5})

    def at_the_last_step(record: Record) -> bool:
        if record["type"] == "metric" and record["step"] == asked.training.max_steps:
            held_commit.set()
        return False

    done = train(asked, "run", at_the_last_step)
    assert done.result["status"] == "succeeded"
    kinds = [(record["type"], record["step"]) for record in done.records if record["type"] in ("metric", "checkpoint")]
    assert kinds.index(("checkpoint", 5)) > kinds.index(("metric", 6))


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_once(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    def commit(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.training.checkpoints.checkpoint_manager.commit", commit)
    asked = spec(data={"eval": None}, training={"max_steps": 500}, checkpoints={"strategy": "steps", "every": 2})
    done = train(asked, "run")
    assert done.result["error"]["code"] == "disk_full"
    assert done.result["step"] < 100


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_a_checkpoint_of_an_earlier_release_goes_on(spec: Make, train: Train, engine: str) -> None:
    asked = spec(data={"eval": None}, training={"max_steps": 6}, checkpoints={"strategy": "none"})
    whole = train(asked, "whole")
    first = train(asked, "first", lambda record: "loss" in record.get("values", {}) and record["step"] >= 2)
    checkpoint = newest_valid(first.out_dir / "checkpoints")
    assert checkpoint is not None
    state = snapshot._read(checkpoint / OPTIMIZER, CPU)  # noqa: SLF001 - in the form of torch.save
    torch.save(state, checkpoint / OPTIMIZER_BEFORE)
    (checkpoint / OPTIMIZER).unlink()
    again = train(asked, "first", resolved=first.resolved, resume_from=checkpoint)
    assert again.weights == whole.weights
