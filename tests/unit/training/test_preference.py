import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_generator import make_generator, preferences
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.specs import JobSpec
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tasks.preference import log_probabilities

Train = Callable[..., Any]
TASK = TASKS["preference"]


@pytest.fixture(scope="module", autouse=True)
def generator(models_dir: Path) -> Path:
    return make_generator(models_dir / "talker")


@pytest.fixture
def tokenizer(generator: Path) -> Any:
    return load_tokenizer(generator)


def spec(task: dict[str, Any] | None = None, **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "preference", **(task or {})},
        "model": {"id": "local:talker"},
        "data": {"train": {"rows": preferences(12)}, "eval": {"rows": preferences(3)}},
        "training": {"epochs": 6, "batch_size": 4, "learning_rate": 0.005, "logging_steps": 1},
        "evaluation": {"at_start": True},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def words(tokenizer: Any, encoded: dict[str, list[Any]]) -> list[str]:
    return [
        " ".join(tokenizer.convert_ids_to_tokens(encoded[f"{part}_input_ids"][0]))
        for part in ("prompt", "chosen", "rejected")
    ]


def test_conversations_are_written_with_the_template_and_texts_as_they_are(tokenizer: Any) -> None:
    talk = TASK.encode([{**preferences(1)[0], "_row": 1}], tokenizer, spec(), [], 64, "train")
    assert words(tokenizer, talk) == ["<user> hello <end> <assistant>", "good day <end>", "so long <end>"]
    text = {"prompt": "please help ", "chosen": "good day ", "rejected": "bye ", "_row": 1}
    plain = TASK.encode([text], tokenizer, spec(), [], 64, "train")
    assert words(tokenizer, plain) == ["please help", "good day <end>", "bye <end>"]


def test_a_long_prompt_loses_its_beginning_and_the_answers_stay(tokenizer: Any) -> None:
    text = {"prompt": "hello " * 20 + "bye ", "chosen": "good day ", "rejected": "bye ", "_row": 1}
    found = TASK.encode([text], tokenizer, spec(), [], 8, "train")
    assert words(tokenizer, found) == ["hello hello hello hello bye", "good day <end>", "bye <end>"]
    assert found["cut"] == [True]


def test_log_probabilities_are_of_the_answers_alone(tokenizer: Any, generator: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(generator).eval()
    encoded = TASK.encode(
        [{**row, "_row": n} for n, row in enumerate(preferences(3))], tokenizer, spec(), [], 64, "train"
    )
    names = [name for name in encoded if name != "cut"]
    batch = dict(
        TASK.collate(tokenizer, spec(), 64)([{name: encoded[name][row] for name in names} for row in range(3)])
    )
    labels = batch.pop("labels")
    with torch.no_grad():
        found, lengths = log_probabilities(model(**batch).logits, labels)
        for row in range(3):
            for place, part in enumerate(("chosen", "rejected")):
                ids = torch.tensor([encoded["prompt_input_ids"][row] + encoded[f"{part}_input_ids"][row]])
                wanted = ids.clone()
                wanted[:, : len(encoded["prompt_input_ids"][row])] = -100
                count = len(encoded[f"{part}_input_ids"][row])
                assert -found[place, row].item() == pytest.approx(
                    model(ids, labels=wanted).loss.item() * count, rel=1e-4
                )
                assert lengths[place, row] == count


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_before_the_first_step_our_loss_is_what_trl_logs(train: Train, loss: str) -> None:
    asked = spec(
        {"loss": loss},
        data={"train": {"rows": preferences(3)}, "eval": {"rows": preferences(3)}},
        training={"max_steps": 2},
    )
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    # The whole of train is one batch, and eval is the same rows.
    assert done.series("eval_loss")[0] == pytest.approx(done.series("loss")[1], rel=1e-5)
    assert done.series("eval_reward_margin")[0] == pytest.approx(0.0, abs=1e-5)
    # After one step: what TRL computes for the second is what we would.
    second = train(
        spec(
            {"loss": loss},
            data={"train": {"rows": preferences(3)}, "eval": {"rows": preferences(3)}},
            training={"max_steps": 1, "scheduler": "constant"},
        ),
        "one",
    )
    two = train(
        spec(
            {"loss": loss},
            data={"train": {"rows": preferences(3)}, "eval": {"rows": preferences(3)}},
            training={"max_steps": 2, "scheduler": "constant"},
        ),
        "two",
    )
    assert second.result["metrics"]["eval_loss"] == pytest.approx(two.series("loss")[2], rel=1e-4)


@pytest.mark.parametrize(
    "method", [{"type": "full"}, {"type": "lora", "rank": 8}, {"type": "lora", "rank": 8, "export": "adapter"}]
)
def test_it_learns_to_prefer_and_says_of_raw_rows_what_was_measured(
    train: Train, generator: Path, method: dict[str, Any]
) -> None:
    done = train(spec(training={"method": method}))
    assert done.result["status"] == "succeeded", done.result
    assert done.series("eval_loss")[max(done.series("eval_loss"))] < 0.8 * done.series("eval_loss")[0]
    assert done.result["metrics"]["eval_reward_accuracy"] == 1.0
    folder = done.out_dir / "model"
    base = AutoModelForCausalLM.from_pretrained(generator).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tuned = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(generator), folder)
        if method.get("export")
        else AutoModelForCausalLM.from_pretrained(folder)
    ).eval()
    line = json.loads((folder / "evaluation" / "predictions.jsonl").read_text().splitlines()[0])
    opened = tokenizer.apply_chat_template(line["prompt"], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*line["prompt"], *line["chosen"]], tokenize=False)
    ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
    wanted = ids.clone()
    wanted[:, : len(tokenizer(opened, add_special_tokens=False).input_ids)] = -100
    count = int((wanted != -100).sum())
    with torch.no_grad():
        gain = count * (base(ids, labels=wanted).loss - tuned(input_ids=ids, labels=wanted).loss)
    assert line["reward_chosen"] == pytest.approx(0.1 * gain.item(), abs=1e-4)


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora", "rank": 4}])
def test_resuming_still_compares_with_the_model_before_training(train: Train, method: dict[str, Any]) -> None:
    asked = spec(training={"method": method}, checkpoints={"strategy": "steps", "every": 4})
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 6)
    again = train(
        asked, "again", resume_from=max((stopped.out_dir / "checkpoints").iterdir()), resolved=stopped.resolved
    )
    assert again.weights == whole.weights
    assert again.result["metrics"] == whole.result["metrics"]


def test_conversations_without_a_template_are_refused(train: Train, generator: Path, models_dir: Path) -> None:
    bare = make_generator(models_dir / "bare")
    (bare / "chat_template.jinja").unlink()
    error = train(spec(model={"id": "local:bare"})).result["error"]
    assert error["code"] == "chat_template_missing"
