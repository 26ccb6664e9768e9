import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_generator import conversations, make_generator
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM, pipeline

from app.specs import JobSpec
from worker.training.errors import ModelRefused
from worker.training.loop.losses import IGNORE_INDEX
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tokens.packing import packed
from worker.training.tokens.padding import pad_right

Train = Callable[..., Any]
TASK = TASKS["causal-lm"]
TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "good day"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "so long"},
]


@pytest.fixture(scope="module", autouse=True)
def generator(models_dir: Path) -> Path:
    return make_generator(models_dir / "generator")


@pytest.fixture
def tokenizer(generator: Path) -> Any:
    return load_tokenizer(generator)


def spec(task: dict[str, Any] | None = None, **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "causal-lm", **(task or {})},
        "model": {"id": "local:generator"},
        "data": {"train": {"rows": conversations(24)}, "eval": {"rows": conversations(6)}},
        "training": {"epochs": 6, "batch_size": 4, "learning_rate": 0.02, "logging_steps": 1},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def encode(asked: JobSpec, tokenizer: Any, row: dict[str, Any], max_length: int = 64) -> dict[str, list[Any]]:
    return TASK.encode([{**row, "_row": 1}], tokenizer, asked, [], max_length, "train")


def said(tokenizer: Any, labels: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens([label for label in labels if label != -100]))


def test_every_answer_of_a_conversation_is_learned_with_its_end(tokenizer: Any) -> None:
    found = encode(spec(), tokenizer, {"messages": TALK})
    written = "<system> be kind <end> <user> hello <end> <assistant> good day <end> <user> bye <end> <assistant> so long <end>"
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == written.split()
    assert said(tokenizer, found["labels"][0]) == "good day <end> so long <end>"
    assert found["labels"][0][8:11] == found["input_ids"][0][8:11]


def test_messages_may_be_json_text(tokenizer: Any) -> None:
    assert encode(spec(), tokenizer, {"messages": json.dumps(TALK)}) == encode(spec(), tokenizer, {"messages": TALK})


def test_all_tokens_are_learned_where_that_is_asked_for(tokenizer: Any) -> None:
    found = encode(spec({"loss_on": "all"}), tokenizer, {"messages": TALK})
    assert found["labels"] == found["input_ids"]


def test_a_template_that_rewrites_the_past_still_teaches_each_answer_once(tokenizer: Any) -> None:
    # As templates do that drop the thoughts of all answers but the last.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {% if loop.last %}thanks {% endif %}{{ m.content }} <end> {% endfor %}"
    )
    found = encode(spec(), tokenizer, {"messages": TALK})
    assert said(tokenizer, found["labels"][0]).split().count("day") == 1
    assert said(tokenizer, found["labels"][0]).endswith("so long <end>")


THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant> {{ m.content.split('</think>')[-1] }} <end> "
    "{% else %}<user> {{ m.content }} <end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> be {% endif %}"
)
"""As the templates of reasoning models: the generation prompt opens a thought, and no thought stays in the text."""


def test_an_answer_is_found_where_the_generation_prompt_is_no_prefix(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    conversation = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "kind</think>good"},
        {"role": "user", "content": "bye good"},
        {"role": "assistant", "content": "so long"},
    ]
    found = encode(spec(), tokenizer, {"messages": conversation})
    written = [
        "<user>",
        "hello",
        "<end>",
        "<assistant>",
        "good",
        "<end>",
        "<user>",
        "bye",
        "good",
        "<end>",
        "<assistant>",
        "so",
        "long",
        "<end>",
    ]
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == written
    learned = [number for number, label in enumerate(found["labels"][0]) if label != -100]
    assert learned == [4, 5, 11, 12, 13]


def test_a_template_that_marks_what_is_generated_decides_what_is_learned(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<assistant> {% generation %}{{ m.content }}"
        "{% endgeneration %} <end> {% else %}<user> {{ m.content }} <end> {% endif %}{% endfor %}"
    )
    found = encode(spec(), tokenizer, {"messages": TALK})
    assert said(tokenizer, found["labels"][0]) == "good day so long"


def test_a_template_that_leaves_out_the_answer_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}<user> {{ m.content }} <end> {% endfor %}"
    with pytest.raises(ModelRefused, match="leaves out the last message"):
        encode(spec(), tokenizer, {"messages": TALK})


def test_of_a_pair_the_completion_and_its_end_are_learned(tokenizer: Any) -> None:
    asked = spec(
        {"format": "prompt-completion"}, data={"train": {"rows": [{"prompt": "a", "completion": "b"}]}, "eval": None}
    )
    found = encode(asked, tokenizer, {"prompt": "please help ", "completion": "what is wrong "})
    assert said(tokenizer, found["labels"][0]) == "what is wrong <end>"
    assert len(found["input_ids"][0]) == 6


def test_long_rows_are_cut_and_counted(tokenizer: Any) -> None:
    found = encode(spec(), tokenizer, {"messages": TALK}, max_length=9)
    assert (len(found["input_ids"][0]), found["truncated"]) == (9, [True])


def test_rows_are_packed_without_dividing_any() -> None:
    rows = {"input_ids": [[1] * 5, [2] * 3, [3] * 2, [4] * 6], "labels": [[1] * 5, [2] * 3, [3] * 2, [4] * 6]}
    found = packed(rows, 8)
    assert found["input_ids"] == [[4] * 6 + [3] * 2, [1] * 5 + [2] * 3]
    assert found["labels"] == [[-100, *[4] * 5, -100, 3], [-100, *[1] * 4, -100, 2, 2]]
    assert found["position_ids"] == [[*range(6), 0, 1], [*range(5), 0, 1, 2]]
    assert found["_place"] == [3, 0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_do_not_see_each_other(tokenizer: Any, generator: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(generator, attn_implementation=attention).eval()
    asked = spec({"packing": True})
    rows = [{**row, "_row": number} for number, row in enumerate(conversations(5), start=1)]
    together = TASK.encode(rows, tokenizer, asked, [], 30, "train")
    apart = TASK.encode(rows, tokenizer, spec(), [], 30, "train")
    assert len(together["input_ids"]) < len(apart["input_ids"])

    def total(encoded: dict[str, list[Any]], asked: JobSpec) -> tuple[float, int]:
        names = [name for name in encoded if not name.startswith("_") and name != "truncated"]
        features = [
            dict(zip(names, cells, strict=True)) for cells in zip(*(encoded[name] for name in names), strict=True)
        ]
        with torch.no_grad():
            found = TASK.training_step(asked, [], None)(model, TASK.collate(tokenizer, asked, 30)(features))
        return float(found.loss_sum), found.num_items

    packed_loss, packed_count = total(together, asked)
    plain_loss, plain_count = total(apart, spec())
    assert packed_count == plain_count
    assert packed_loss == pytest.approx(plain_loss, rel=1e-5)


def test_the_loss_is_the_models_own(tokenizer: Any, generator: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(generator).eval()
    rows = [{**row, "_row": number} for number, row in enumerate([{"messages": TALK}, *conversations(3)], start=1)]
    encoded = TASK.encode(rows, tokenizer, spec(), [], 64, "train")
    features = [
        {"input_ids": ids, "labels": labels}
        for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True)
    ]
    collate, step = TASK.collate(tokenizer, spec(), 64), TASK.training_step(spec(), [], None)
    batch = collate(features)
    labels = pad_right([row["labels"] for row in features], batch.inputs["input_ids"].shape[1], IGNORE_INDEX)
    expected = model(**batch.inputs, labels=labels).loss
    found = step(model, batch)
    assert torch.allclose(found.loss_sum / found.num_items, expected)
    # Logits of places that nothing is learned from are not computed, or left out afterwards.
    assert found.outputs["logits"].shape[1] == batch.targets["labels"].shape[1] < labels.shape[1] - 1

    class Whole(torch.nn.Module):
        def forward(self, **inputs: Any) -> Any:
            return model(**inputs)

    assert torch.allclose(step(Whole(), batch).loss_sum, found.loss_sum)
    # In two halves, each over the items of both, as with accumulation.
    parts = [step(model, collate(half)) for half in (features[:2], features[2:])]
    assert torch.allclose(sum(part.loss_sum for part in parts) / sum(part.num_items for part in parts), expected)


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
@pytest.mark.parametrize("task", [{}, {"packing": True}], ids=["plain", "packed"])
def test_it_learns_to_answer_and_the_evaluation_is_true(train: Train, engine: str, task: dict[str, Any]) -> None:
    done = train(
        spec(
            task,
            training={"engine": engine, "epochs": 12},
            evaluation={"at_start": True},
            tokenization={"max_length": 32},
        )
    )
    assert done.result["status"] == "succeeded", done.result
    assert done.resolved.attention.name == ("packed" if task else "sdpa")
    perplexity = done.series("eval_perplexity")
    assert perplexity[max(perplexity)] < perplexity[0] / 2
    folder = done.out_dir / "model"
    generate = pipeline("text-generation", model=str(folder))
    answer = generate([{"role": "user", "content": "thanks"}], max_new_tokens=6, do_sample=False)[0]["generated_text"][
        -1
    ]
    assert answer["content"].split()[:3] == ["you", "are", "welcome"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    lines = [json.loads(line) for line in (folder / "evaluation" / "predictions.jsonl").read_text().splitlines()]
    text = tokenizer.apply_chat_template(conversations(1)[0]["messages"], tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    labels = ids.clone()
    labels[:, :4] = -100
    assert lines[0]["loss"] == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-4)
    assert lines[0]["tokens"] == 3
    total = sum(line["loss"] * line["tokens"] for line in lines) / sum(line["tokens"] for line in lines)
    assert done.result["metrics"]["eval_perplexity"] == pytest.approx(math.exp(total), rel=1e-3)


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_an_adapter_learns_and_goes_onto_its_base(train: Train, engine: str, generator: Path) -> None:
    method = {"type": "lora", "rank": 8, "export": "adapter"}
    done = train(spec(training={"engine": engine, "method": method, "epochs": 12}, evaluation={"at_start": True}))
    assert done.result["status"] == "succeeded", done.result
    loss = done.series("eval_loss")
    assert loss[max(loss)] < 0.8 * loss[0]
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(generator), done.out_dir / "model")
    assert not any("embed_tokens" in name for name in load_file(done.out_dir / "model" / "adapter_model.safetensors"))
    assert tuned.peft_config["default"].task_type == "CAUSAL_LM"


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_resuming_a_packed_run_ends_where_an_undisturbed_one_does(train: Train, engine: str) -> None:
    asked = spec(
        {"packing": True},
        training={"engine": engine},
        tokenization={"max_length": 16},
        checkpoints={"strategy": "steps", "every": 2},
    )
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 5)
    checkpoint = max((stopped.out_dir / "checkpoints").iterdir())
    again = train(asked, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.weights == whole.weights


def test_rows_whose_answer_is_truncated_are_counted_and_warned_of(train: Train) -> None:
    done = train(spec(tokenization={"max_length": 3}, training={"max_steps": 1}))
    assert done.of("preflight")[-1]["preflight"]["tokens"]["train"]["unlearned"] == 24
    assert any("24 of 24 train sequences have no token that counts" in note["message"] for note in done.of("note"))


def test_a_tokenizer_without_a_template_is_refused_with_what_to_do(train: Train, models_dir: Path) -> None:
    error = train(spec(model={"id": "local:tiny"})).result["error"]
    assert error["code"] == "chat_template_missing"
    assert "prompt-completion" in error["hint"]


def test_an_encoder_cannot_generate(train: Train) -> None:
    rows = {"rows": [{"prompt": "hello", "completion": "bye"}]}
    asked = spec({"format": "prompt-completion"}, model={"id": "local:tiny"}, data={"train": rows, "eval": None})
    error = train(asked).result["error"]
    assert (error["code"], "cannot generate" in error["message"]) == ("model_refused", True)


def test_packing_is_refused_where_rows_would_run_together(train: Train, generator: Path, models_dir: Path) -> None:
    folder = models_dir / "bloom"
    shutil.copytree(generator, folder)
    (folder / "model.safetensors").unlink()
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2, initializer_range=0.5)
    BloomForCausalLM(config).save_pretrained(folder)
    error = train(spec({"packing": True}, model={"id": "local:bloom"})).result["error"]
    assert error["code"] == "model_config_invalid"
    assert "see each other in a bloom model" in error["message"]
    assert train(spec(model={"id": "local:bloom"}, training={"max_steps": 1}), "plain").result["status"] == "succeeded"
