"""The metrics of a job are those of the published model, and are computed again only if its weights are not those evaluated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import sentences
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from app.specs import JobSpec
from worker.training.evaluation.prediction import predict

LORA = {"type": "lora", "rank": 4}


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize("method", [{"type": "full"}, LORA], ids=lambda method: method["type"])
def test_what_is_reported_is_what_plain_transformers_computes(
    spec: Callable[..., JobSpec], train: Callable[..., Any], engine: str, method: dict[str, Any]
) -> None:
    rows = sentences(10)
    done = train(spec(training={"engine": engine, "method": method}, data={"eval": {"rows": rows}}))
    metrics, folder = done.result["metrics"], done.out_dir / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)([row["text"] for row in rows], padding=True, return_tensors="pt")
    targets = torch.tensor([model.config.label2id[row["label"]] for row in rows])
    with torch.no_grad():
        logits = model(**batch).logits
    assert metrics["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert metrics["eval_accuracy"] == (logits.argmax(-1) == targets).float().mean().item()


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize(
    ("method", "evaluations"),
    [({"type": "full"}, 0), ({**LORA, "export": "adapter"}, 0), ({**LORA, "export": "merged"}, 1)],
    ids=["full", "adapter", "merged"],
)
def test_weights_that_were_just_evaluated_are_not_evaluated_again(
    spec: Callable[..., JobSpec],
    train: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    method: dict[str, Any],
    evaluations: int,
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(
        f"worker.training.engines.{engine}.predict",
        lambda plan, folder, split: folders.append(folder) or predict(plan, folder, split),
    )
    done = train(spec(training={"engine": engine, "method": method}))
    assert done.result["status"] == "succeeded", done.result
    assert len(folders) == evaluations
    assert done.result["metrics"]["eval_loss"] in [
        pytest.approx(loss, rel=1e-5) for loss in done.series("eval_loss").values()
    ]


def test_the_test_split_is_evaluated_once_at_the_end(spec: Callable[..., JobSpec], train: Callable[..., Any]) -> None:
    done = train(spec(data={"test": {"rows": sentences(6)}}))
    assert list(done.series("test_accuracy")) == [12]
    assert {"eval_accuracy", "test_accuracy"} <= set(done.result["metrics"])
