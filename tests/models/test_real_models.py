"""A real encoder on token labels, and a real chat model with LoRA. Its text classification is in `tests/conformance`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import real_models
from kinds import KINDS
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.models
Train = Callable[..., list[dict[str, Any]]]


def series(records: list[dict[str, Any]], name: str) -> list[float]:
    return [record["values"][name] for record in records if name in record.get("values", {})]


def test_a_real_encoder_learns_the_parts_of_addresses(train: Train, tmp_path: Path) -> None:
    rows = real_models.addresses(real_models.CACHE)
    records = train(
        rows[:1000],
        rows[1000:1200],
        {
            "task": {"type": "token-classification"},
            "model": "local:all-minilm-l6-v2",
            "tokenization": {"max_length": 64},
            "training": {"epochs": 1, "batch_size": 16, "learning_rate": 5e-4, "head_learning_rate": 2e-3},
        },
    )
    before, *_, after = series(records, "eval_f1")
    assert before < 0.1
    assert after > 0.7
    model = tmp_path / "out" / "model"
    lines = [json.loads(line) for line in (model / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    KINDS["token-classification"].agrees(model, lines[:50])


@pytest.mark.parametrize("export", ["merged", "adapter"])
def test_a_real_chat_model_learns_to_answer_with_small_matrices(
    train: Train, tmp_path: Path, models: Path, export: str
) -> None:
    rows = real_models.support_chat(real_models.CACHE)
    records = train(
        rows[:48],
        rows[160:180],
        {
            "task": {"type": "causal-lm", "packing": True},
            "model": "local:smollm2",
            "tokenization": {"max_length": 256},
            "training": {
                "method": {"type": "lora", "rank": 8, "export": export},
                "epochs": 1,
                "batch_size": 2,
                "learning_rate": 5e-4,
                "logging_steps": 1,
            },
        },
    )
    perplexity = series(records, "eval_perplexity")
    assert perplexity[-1] < 0.7 * perplexity[0]
    folder = tmp_path / "out" / "model"
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert (size < 20e6) is (export == "adapter")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(models / "smollm2" if export == "adapter" else folder)
    model = PeftModel.from_pretrained(model, folder) if export == "adapter" else model
    talk = rows[160]["messages"]
    opened = tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(talk, tokenize=False).rstrip()
    ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
    labels = ids.clone()
    labels[:, : len(tokenizer(opened, add_special_tokens=False).input_ids)] = -100
    line = json.loads((folder / "evaluation" / "predictions.jsonl").read_text().splitlines()[0])
    assert line["tokens"] == int((labels != -100).sum())
    assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(line["loss"], abs=2e-3)
