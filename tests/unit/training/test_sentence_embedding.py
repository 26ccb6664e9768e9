import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tiny import pairs

from app.specs import JobSpec
from worker.training.evaluation.metrics import compute
from worker.training.evaluation.metrics.retrieval import RETRIEVAL, finds
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS, sentence_embedding

Train = Callable[..., Any]
TASK = TASKS["sentence-embedding"]


def spec(**parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "sentence-embedding"},
        "model": {"id": "local:tiny"},
        "data": {"train": {"rows": pairs(42)}, "eval": {"rows": pairs(7)}},
        "training": {"epochs": 15, "batch_size": 7, "learning_rate": 0.005, "logging_steps": 1},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def test_the_parts_of_rows_lie_below_each_other_and_their_tokens_are_the_targets(models_dir: Path) -> None:
    tokenizer, asked = load_tokenizer(models_dir / "tiny"), spec(data={"columns": {"negative": "negative"}})
    rows = [{"anchor": "good", "positive": "bad film", "negative": "a", "_row": 1}] * 2
    encoded = TASK.encode(rows, tokenizer, asked, [], 32, "train")
    assert encoded["anchor_input_ids"][0] == [2, 5, 3]
    names = [name for name in encoded if name != "truncated"]
    batch = TASK.collate(tokenizer, asked, 32)([{name: encoded[name][row] for name in names} for row in range(2)])
    assert batch.inputs["input_ids"].shape == (6, 4)
    assert batch.inputs["input_ids"][2].tolist() == [2, 9, 14, 3]
    assert batch.targets["mask"].shape == (3, 2, 4)
    assert batch.targets["mask"][:, 0].sum(-1).tolist() == [3, 4, 3]
    assert batch.num_items == 2


def test_a_long_text_is_cut_and_counted(models_dir: Path) -> None:
    row = {"anchor": "good " * 9, "positive": "bad", "_row": 1}
    encoded = TASK.encode([row], load_tokenizer(models_dir / "tiny"), spec(), [], 5, "train")
    assert (len(encoded["anchor_input_ids"][0]), encoded["truncated"]) == (5, [True])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_loss_is_that_of_sentence_transformers(pooling: str, models_dir: Path) -> None:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    asked = spec(task={"pooling": pooling, "scale": 10.0})
    tokenizer = load_tokenizer(models_dir / "tiny")
    model = TASK.load_model(models_dir / "tiny", asked).eval()
    rows = [{**row, "_row": number} for number, row in enumerate(pairs(6), start=1)]
    encoded = TASK.encode(rows, tokenizer, asked, [], 32, "train")
    names = [name for name in encoded if name != "truncated"]
    batch = TASK.collate(tokenizer, asked, 32)([{name: encoded[name][row] for name in names} for row in range(6)])
    found = TASK.training_step(asked, [], None)(model, batch).loss_sum / 6
    encoder = Transformer(str(models_dir / "tiny"))
    whole = SentenceTransformer(modules=[encoder, Pooling(32, pooling)], device="cpu").eval()
    features = [whole.preprocess([row[part] for row in rows]) for part in ("anchor", "positive")]
    assert torch.allclose(found, MultipleNegativesRankingLoss(whole, scale=10.0)(features, torch.empty(0)), atol=1e-6)


def gradients(models_dir: Path, mini_batch_size: int | None, *, dropout: bool) -> dict[str, torch.Tensor]:
    asked = spec(task={"mini_batch_size": mini_batch_size})
    tokenizer = load_tokenizer(models_dir / "tiny")
    model = TASK.load_model(models_dir / "tiny", asked).train(dropout)
    rows = [{**row, "_row": number} for number, row in enumerate(pairs(6), start=1)]
    encoded = TASK.encode(rows, tokenizer, asked, [], 32, "train")
    names = [name for name in encoded if name != "truncated"]
    batch = TASK.collate(tokenizer, asked, 32)([{name: encoded[name][row] for name in names} for row in range(6)])
    torch.manual_seed(3)
    TASK.training_step(asked, [], None)(model, batch).loss_sum.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def alike(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-5) for name in first
    )


@pytest.mark.parametrize("size", [1, 5, 11])
def test_mini_batches_give_the_gradients_of_the_whole_batch(size: int, models_dir: Path) -> None:
    assert alike(gradients(models_dir, None, dropout=False), gradients(models_dir, size, dropout=False))


def test_a_mini_batch_that_is_computed_again_drops_the_same(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = gradients(models_dir, 5, dropout=True)
    monkeypatch.setattr(sentence_embedding, "checkpoint", lambda encode, *part, **_: encode(*part))
    once = gradients(models_dir, 5, dropout=True)
    assert alike(once, again)
    assert not alike(once, gradients(models_dir, 5, dropout=False))


def test_ranks_and_accuracies_are_those_of_a_table_by_hand(tmp_path: Path) -> None:
    anchors, positives = np.eye(3), np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1.0, 0]])
    found = finds(anchors, positives, None)
    assert [find["rank"] for find in found] == [1, 2, 3]
    assert [find["nearer"] for find in found] == [True, False, False]
    scores = compute(RETRIEVAL, list(RETRIEVAL), found, [0, 1, 2], tmp_path)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (scores["recall_at_1"], scores["cosine_accuracy"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_vectors_that_are_all_alike_find_nothing() -> None:
    same = np.ones((4, 2)) / np.sqrt(2)
    assert [find["rank"] for find in finds(same, same, same)] == [4] * 4


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora"}], ids=["full", "lora"])
def test_it_learns_what_belongs_together_and_loads_with_sentence_transformers(
    train: Train, engine: str, method: dict[str, Any]
) -> None:
    asked = spec(training={"engine": engine, "method": method}, evaluation={"at_start": True})
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    ranks = done.series("eval_mrr")
    assert ranks[max(ranks)] > ranks[0] + 0.2
    folder = done.out_dir / "model"
    lines = [json.loads(line) for line in (folder / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    model = SentenceTransformer(str(folder), device="cpu")
    anchors, positives = (model.encode([line[part] for line in lines]) for part in ("anchor", "positive"))
    assert np.linalg.norm(anchors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (anchors * positives).sum(-1) == pytest.approx([line["cosine"] for line in lines], abs=1e-4)


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize("task", [{}, {"mini_batch_size": 5}], ids=["whole batches", "mini-batches"])
def test_resuming_ends_where_an_undisturbed_run_does(train: Train, engine: str, task: dict[str, Any]) -> None:
    columns = {"columns": {"negative": "negative"}}
    asked = spec(
        task=task,
        training={"engine": engine, "max_steps": 14},
        checkpoints={"strategy": "steps", "every": 5},
        data=columns,
    )
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 7)
    again = train(
        asked, "again", resume_from=max((stopped.out_dir / "checkpoints").iterdir()), resolved=stopped.resolved
    )
    assert again.weights == whole.weights
