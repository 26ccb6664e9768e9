"""Embeddings with a lasting gradient learn what those of torch learn."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from app.specs import JobSpec
from worker.training.loop.optimizers import optimizer_of
from worker.training.models import embedding
from worker.training.models.embedding import Embedding, use_lasting_gradients

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "FEWEST_WEIGHTS", 0)


def pair() -> tuple[torch.nn.Sequential, torch.nn.Sequential]:
    torch.manual_seed(3)
    plain = torch.nn.Sequential(torch.nn.Embedding(40, 8, padding_idx=0), torch.nn.Linear(8, 1))
    lasting = copy.deepcopy(plain)
    use_lasting_gradients(lasting)
    assert type(lasting[0]) is Embedding
    return plain, lasting


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_weights_are_the_same_after_steps_of_several_passes(spec: Make, optimizer: str) -> None:
    training = spec(training={"optimizer": optimizer, "weight_decay": 0.1, "learning_rate": 0.1}).training
    models = pair()
    optimizers = [optimizer_of(training, model, ()) for model in models]
    for step in range(6):
        for number in range(2):
            ids = torch.randint(0, 40, (3, 5), generator=torch.Generator().manual_seed(10 * step + number))
            ids[0, 2:] = 0
            for model in models:
                model(ids).pow(2).sum().backward()
        gradients: list[Any] = [model[0].weight.grad for model in models]
        torch.testing.assert_close(*gradients)
        assert not gradients[1][0].any()
        for model, stepping in zip(models, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            stepping.step()
            stepping.zero_grad()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_the_gradient_is_one_tensor_for_all_steps_and_no_part_of_what_is_saved() -> None:
    _, model = pair()
    model(torch.tensor([[3, 4]])).sum().backward()
    first: Any = model[0].weight.grad
    model.zero_grad()
    model(torch.tensor([[5, 5]])).sum().backward()
    assert model[0].weight.grad is first
    assert set(first.abs().sum(1).nonzero().flatten().tolist()) == {5}
    assert set(model.state_dict()) == {"0.weight", "1.weight", "1.bias"}


def test_weights_that_are_also_used_elsewhere_and_frozen_ones_are_left_to_torch() -> None:
    tied, alone = BertForMaskedLM(BertConfig(**SIZES)), BertModel(BertConfig(**SIZES))
    use_lasting_gradients(tied)
    use_lasting_gradients(alone)
    assert type(tied.bert.embeddings.word_embeddings) is torch.nn.Embedding
    words = alone.embeddings.word_embeddings
    assert type(words) is Embedding
    words.weight.requires_grad_(False)
    alone(torch.tensor([[1, 2, 3]])).last_hidden_state.sum().backward()
    assert words.weight.grad is None


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_a_run_learns_the_same_and_a_stop_changes_no_byte(
    spec: Make, train: Train, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    asked = spec(
        training={"engine": engine, "max_steps": 8, "gradient_accumulation": 2},
        checkpoints={"strategy": "steps", "every": 3},
    )
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 4)
    newest = max((stopped.out_dir / "checkpoints").iterdir())
    assert train(asked, "again", resume_from=newest, resolved=stopped.resolved).weights == whole.weights
    monkeypatch.setattr(embedding, "FEWEST_WEIGHTS", 1 << 40)
    for step, loss in train(asked, "plain").series("loss").items():
        assert whole.series("loss")[step] == pytest.approx(loss, rel=1e-4)
