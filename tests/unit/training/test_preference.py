import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
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
    assert found["truncated"] == [True]


def test_log_probabilities_are_of_the_answers_alone(tokenizer: Any, generator: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(generator).eval()
    encoded = TASK.encode(
        [{**row, "_row": n} for n, row in enumerate(preferences(3))], tokenizer, spec(), [], 64, "train"
    )
    names = [name for name in encoded if name != "truncated"]
    batch = TASK.collate(tokenizer, spec(), 64)([{name: encoded[name][row] for name in names} for row in range(3)])
    with torch.no_grad():
        found, lengths = log_probabilities(model(**batch.inputs).logits, batch.targets["answers"])
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


def trl_losses(
    generator: Path, tokenizer: Any, rows: list[dict[str, Any]], kind: str, folder: Path, steps: int
) -> list[float]:
    """The losses of TRL's own trainer over one batch of encoded rows that have their references, SGD at rate 0.05."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    class EncodedRows(DPOTrainer):
        """Takes rows that are encoded already, and the references that they bring."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            return dataset

    named = [
        {
            **{f"{part}_ids": row[f"{part}_input_ids"] for part in ("prompt", "chosen", "rejected")},
            "ref_chosen_logps": row["reference"][0],
            "ref_rejected_logps": row["reference"][1],
        }
        for row in rows
    ]
    config = DPOConfig(
        output_dir=str(folder),
        loss_type=[kind],
        beta=0.1,
        precompute_ref_log_probs=True,
        max_length=None,
        max_steps=steps,
        per_device_train_batch_size=len(rows),
        learning_rate=0.05,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=1e9,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        gradient_checkpointing=False,
        bf16=False,
    )
    trainer = EncodedRows(
        model=AutoModelForCausalLM.from_pretrained(generator),
        args=config,
        train_dataset=datasets.Dataset.from_list(named),
        processing_class=tokenizer,
        data_collator=DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# TRL itself sets the argument that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_our_loss_is_that_of_trl(tokenizer: Any, generator: Path, loss: str, tmp_path: Path) -> None:
    asked = spec({"loss": loss})
    encoded = TASK.encode(
        [{**row, "_row": n} for n, row in enumerate(preferences(3))], tokenizer, asked, [], 64, "train"
    )
    names = [name for name in encoded if name != "truncated"]
    rows = [{name: encoded[name][row] for name in names} for row in range(3)]
    model, collate = AutoModelForCausalLM.from_pretrained(generator).train(), TASK.collate(tokenizer, asked, 64)
    with torch.no_grad():
        references = TASK.reference(model, collate(rows))
    rows = [{**row, "reference": said} for row, said in zip(rows, references, strict=True)]
    step, optimizer = TASK.training_step(asked, [], None), torch.optim.SGD(model.parameters(), lr=0.05)
    losses: list[float] = []
    for _ in range(5):
        found = step(model, collate(rows))
        value = found.loss_sum / found.num_items
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    # All five, so the gradients agree too.
    assert losses == pytest.approx(trl_losses(generator, tokenizer, rows, loss, tmp_path, 5), rel=1e-4)
    assert losses[-1] < losses[0]


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
