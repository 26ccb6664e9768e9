import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_texts import WEEK, make_guesser, weeks
from transformers import AutoModelForMaskedLM, pipeline

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid
from worker.training.errors import ModelConfigInvalid, ModelRefused, RowTooLong
from worker.training.evaluation.evaluation import split_of
from worker.training.models.pretrained import load_config, load_tokenizer
from worker.training.planning.plan import Plan
from worker.training.tasks import TASKS
from worker.training.tasks.masked_lm import Mask

Train = Callable[..., Any]
MakePlan = Callable[[JobSpec], Plan]
TASK = TASKS["masked-lm"]
MASK, PAD = 4, 0


@pytest.fixture(scope="module", autouse=True)
def guesser(models_dir: Path) -> Path:
    make_guesser(models_dir / "headless", with_head=False)
    return make_guesser(models_dir / "guesser")


@pytest.fixture
def tokenizer(guesser: Path) -> Any:
    return load_tokenizer(guesser)


def spec(task: dict[str, Any] | None = None, **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "masked-lm", **(task or {})},
        "model": {"id": "local:guesser"},
        "data": {"train": {"rows": weeks(28)}, "eval": {"rows": weeks(14)}},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.005, "logging_steps": 1},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def encode(asked: JobSpec, tokenizer: Any, *texts: str, max_length: int = 32, split: str = "train") -> dict[str, Any]:
    rows = [{"text": text, "_row": number} for number, text in enumerate(texts, start=1)]
    return TASK.encode(rows, tokenizer, asked, [], max_length, split)


def lists(values: Any) -> list[list[int]]:
    return [list(map(int, value)) for value in values]


def predictions(done: Any) -> list[dict[str, Any]]:
    path = done.out_dir / "model" / "evaluation" / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_long_texts_become_several_sequences_and_nothing_is_cut(tokenizer: Any) -> None:
    found = encode(spec(), tokenizer, "monday", " ".join(WEEK), max_length=5)
    assert found["input_ids"] == [[2, 7, 3], [2, 7, 8, 9, 3], [2, 10, 11, 12, 3], [2, 13, 3]]
    assert found["_place"] == [0, 1, 1, 1]
    assert found["truncated"] == [False, False]
    assert set(found) == {"input_ids", "_place", "truncated"}


def test_without_truncation_they_are_refused(tokenizer: Any) -> None:
    with pytest.raises(RowTooLong, match="row 2 has 9 tokens, more than max_length 5"):
        encode(spec(tokenization={"truncation": False}), tokenizer, "monday", " ".join(WEEK), max_length=5)


def test_what_is_hidden_for_evaluation_depends_on_the_text_alone(tokenizer: Any) -> None:
    text = " then comes ".join(WEEK)
    alone = encode(spec(), tokenizer, text, split="eval")
    among = encode(spec(training={"seed": 7}), tokenizer, "monday", text, "tuesday", split="test")
    assert lists(alone["input_ids"])[0] == lists(among["input_ids"])[1]
    assert lists(alone["labels"])[0] == lists(among["labels"])[1]


def test_hidden_tokens_are_the_labels_and_all_else_stays(tokenizer: Any) -> None:
    texts = [" ".join(WEEK[:count]) for count in range(1, 8)]
    plain, hidden = encode(spec(), tokenizer, *texts), encode(spec(), tokenizer, *texts, split="eval")
    for ids, seen, labels in zip(plain["input_ids"], hidden["input_ids"], hidden["labels"], strict=True):
        assert any(label != -100 for label in labels)
        for token, shown, label in zip(ids, seen, labels, strict=True):
            assert label in (-100, token)
            assert label != -100 or shown == token
        assert labels[0] == labels[-1] == -100


def test_a_text_without_any_word_hides_nothing_and_teaches_nothing(tokenizer: Any) -> None:
    asked = spec()
    found = encode(asked, tokenizer, "nowhere", split="eval")
    assert (lists(found["input_ids"]), lists(found["labels"])) == ([[2, 1, 3]], [[-100] * 3])
    batch = TASK.collate(tokenizer, asked, 32)([{"input_ids": [2, 1, 3]}])
    assert batch.num_items == 0
    logits = torch.randn(1, 8, 14, requires_grad=True)
    found = TASK.training_step(asked, [], None)(lambda **_: {"logits": logits}, batch)
    assert found.loss_sum.item() == 0
    found.loss_sum.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_of_many_tokens_the_shares_are_those_of_the_paper(tokenizer: Any) -> None:
    mask, ids = Mask(tokenizer, 0.15), np.tile(np.arange(1, 14, dtype=np.int64), 20_000)
    seen, labels = mask.hide(ids, np.random.default_rng(1))
    free = ids > 4
    hidden = labels != -100
    assert not hidden[~free].any()
    assert hidden[free].mean() == pytest.approx(0.15, abs=0.005)
    assert (labels[hidden] == ids[hidden]).all()
    assert (seen[~hidden] == ids[~hidden]).all()
    assert (seen[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    # One in nine of the replacements happens to be the token itself.
    replaced = (seen[hidden] != MASK) & (seen[hidden] != ids[hidden])
    assert replaced.mean() == pytest.approx(0.1 * 8 / 9, abs=0.01)
    assert seen[hidden][replaced].min() > 4


def test_batches_are_padded_to_a_multiple_but_never_past_the_limit(tokenizer: Any) -> None:
    rows = [{"input_ids": [2, *[7] * 8, 3]}, {"input_ids": [2, 7, 3]}]
    batch = TASK.collate(tokenizer, spec(), 32)(rows)
    assert batch.inputs["input_ids"].shape == (2, 16)
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [10, 3]
    assert batch.inputs["input_ids"][1, 3:].tolist() == [PAD] * 13
    assert (batch.targets["labels"][1, 3:] == -100).all()
    assert TASK.collate(tokenizer, spec(), 11)(rows).inputs["input_ids"].shape == (2, 11)
    always = spec(tokenization={"padding": "max_length"})
    assert TASK.collate(tokenizer, always, 30)(rows).inputs["input_ids"].shape == (2, 30)


def test_each_epoch_hides_other_tokens_and_each_attempt_the_same(tokenizer: Any) -> None:
    rows = [{"input_ids": encode(spec(), tokenizer, " ".join(WEEK * 3))["input_ids"][0]}]

    def epochs() -> list[list[int]]:
        collate: Any = TASK.collate(tokenizer, spec({"mask_probability": 0.5}), 32)
        found = []
        for epoch in range(4):
            collate.set_epoch(epoch)
            found.append(collate(rows).targets["labels"][0].tolist())
        return found

    before = torch.get_rng_state()
    first = epochs()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(map(tuple, first))) == 4
    assert epochs() == first


def test_the_loss_is_the_librarys_own(guesser: Path, tokenizer: Any) -> None:
    asked = spec({"mask_probability": 0.4})
    rows = [{"input_ids": ids} for ids in encode(asked, tokenizer, *(row["text"] for row in weeks(4)))["input_ids"]]
    batch = TASK.collate(tokenizer, asked, 32)(rows)
    model = AutoModelForMaskedLM.from_pretrained(guesser).eval()
    labels = batch.targets["labels"]
    expected = model(**batch.inputs, labels=labels).loss
    found = TASK.training_step(asked, [], None)(model, batch)
    assert found.num_items == int((labels != -100).sum())
    assert torch.allclose(found.loss_sum / found.num_items, expected)
    outputs = found.outputs
    smoothed = TASK.training_step(spec(training={"label_smoothing": 0.1}), [], None)(model, batch)
    smooth = smoothed.loss_sum / smoothed.num_items
    flat = outputs.logits.view(-1, outputs.logits.shape[-1])
    wanted = torch.nn.functional.cross_entropy(flat, labels.view(-1), label_smoothing=0.1)
    assert torch.allclose(smooth, wanted)


def test_answers_of_several_sequences_make_one_row(plan: MakePlan) -> None:
    texts = [{"text": " ".join(WEEK)}, {"text": "monday tuesday"}]
    ready = plan(spec(data={"eval": {"rows": texts}}, tokenization={"max_length": 5}))
    encoded = ready.encoded["eval"]
    assert encoded["_place"] == [0, 0, 0, 1]
    counts = [sum(label != -100 for label in labels) for labels in encoded["labels"]]
    answers = [(2.0 * count, 1, count, [7] * count) for count in counts]
    evaluated = TASK.eval_prediction(split_of(ready, "eval"), answers)
    assert evaluated.references == [sum(counts[:3]), counts[3]]
    assert evaluated.predictions == [
        {"loss": 2.0 * sum(counts[:3]), "correct": 3},
        {"loss": 2.0 * counts[3], "correct": 1},
    ]
    lines = list(TASK.describe(split_of(ready, "eval"), answers, evaluated))
    assert [line["row"] for line in lines] == [1, 2]
    assert lines[0]["predicted"] == ["monday"] * sum(counts[:3])
    assert set(lines[0]["hidden"]) <= set(WEEK)
    assert (lines[0]["loss"], lines[1]["text"]) == (2.0, "monday tuesday")


@pytest.mark.parametrize(
    "method",
    [{"type": "full"}, {"type": "lora", "rank": 8, "alpha": 16}, {"type": "freeze", "layers": 1}],
    ids=lambda m: m["type"],
)
@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_it_learns_and_the_folder_says_what_was_evaluated(train: Train, engine: str, method: dict[str, Any]) -> None:
    done = train(
        spec(
            {"mask_probability": 0.2},
            training={"engine": engine, "method": method, "max_steps": 150},
            evaluation={"at_start": True, "strategy": "steps", "every": 75},
        )
    )
    assert done.result["status"] == "succeeded", done.result
    perplexity, accuracy = done.series("eval_perplexity"), done.series("eval_token_accuracy")
    assert min(perplexity.values()) < 0.7 * perplexity[0]
    assert max(accuracy.values()) > accuracy[0]
    losses = list(done.series("loss").values())
    assert sum(losses[-10:]) < sum(losses[:10])
    metrics = done.result["metrics"]
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]), rel=1e-4)
    folder = done.out_dir / "model"
    guess = pipeline("fill-mask", model=str(folder), tokenizer=str(folder))
    assert guess("monday then [MASK] tuesday")[0]["token_str"] == "comes"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), load_tokenizer(folder)
    asked = spec({"mask_probability": 0.2})
    for line in predictions(done):
        encoded = encode(asked, tokenizer, line["text"], split="eval")
        ids, labels = torch.tensor(lists(encoded["input_ids"])), torch.tensor(lists(encoded["labels"]))
        with torch.no_grad():
            found = model(input_ids=ids).logits.argmax(dim=-1)[labels != -100]
        assert tokenizer.convert_ids_to_tokens(labels[labels != -100].tolist()) == line["hidden"]
        assert tokenizer.convert_ids_to_tokens(found.tolist()) == line["predicted"]


@pytest.mark.parametrize(("accumulation", "stops"), [(1, (2, 3, 5)), (2, (2, 3))])
@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_a_stop_within_an_epoch_or_after_it_changes_no_byte(
    train: Train, engine: str, accumulation: int, stops: tuple[int, ...]
) -> None:
    # 10 sequences in batches of 4: an epoch has 3 steps, or 2 where each is of two batches.
    asked = spec(
        {"mask_probability": 0.3},
        data={"train": {"rows": weeks(10)}, "eval": None},
        training={"engine": engine, "gradient_accumulation": accumulation, "epochs": 3},
        checkpoints={"strategy": "none"},
    )
    whole = train(asked, "whole")
    assert whole.result["step"] == {1: 9, 2: 6}[accumulation]
    for stop in stops:
        name = f"interrupted-{stop}"
        stopped = train(asked, name, lambda record, at=stop - 1: "values" in record and record["step"] >= at)
        assert (stopped.result["status"], stopped.result["step"]) == ("stopped", stop)
        checkpoint = newest_valid(stopped.out_dir / "checkpoints")
        again = train(asked, name, resume_from=checkpoint, resolved=stopped.resolved)
        assert again.result["status"] == "succeeded", again.result
        assert again.weights == whole.weights, f"stopped after step {stop}"


def test_both_engines_hide_the_same_tokens_in_each_epoch(train: Train) -> None:
    quiet = {"id": "local:guesser", "config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    series = [
        train(spec(model=quiet, training={"engine": engine, "batch_size": 1, "epochs": 2}), engine).series("loss")
        for engine in ("trainer", "pytorch")
    ]
    assert len(series[0]) == 56
    assert series[0] == pytest.approx(series[1], rel=1e-4)


def test_steps_are_counted_from_sequences(train: Train) -> None:
    rows = {"rows": [{"text": " ".join(WEEK * 4)}] * 4}
    asked = spec(data={"train": rows, "eval": rows}, tokenization={"max_length": 9}, training={"epochs": 2})
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    # Four sequences a row.
    assert done.resolved.total_steps == done.result["step"] == 8
    assert [record["resolved"]["total_steps"] for record in done.of("resolved")] == [2, 8, 8]
    assert len(predictions(done)) == 4


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "freeze"}], ids=lambda m: m["type"])
def test_an_encoder_without_a_head_gets_one(train: Train, method: dict[str, Any]) -> None:
    done = train(
        spec(
            model={"id": "local:headless"},
            training={"method": method, "max_steps": 60, "learning_rate": 0.01},
            evaluation={"at_start": True},
        )
    )
    assert done.result["status"] == "succeeded", done.result
    perplexity = done.series("eval_perplexity")
    assert min(perplexity.values()) < perplexity[0]
    found = pipeline("fill-mask", model=str(done.out_dir / "model"))("monday [MASK] comes")
    assert len(found) == 5


def test_a_new_head_cannot_be_had_with_matrices_beside_the_weights(train: Train) -> None:
    error = train(spec(model={"id": "local:headless"}, training={"method": {"type": "lora"}})).result["error"]
    assert error["code"] == "model_refused"
    assert "have no head that guesses words, and lora cannot tune a new one" in error["message"]


def test_models_that_cannot_do_it_are_refused(guesser: Path, models_dir: Path, tokenizer: Any) -> None:
    config = load_config(guesser, spec())
    TASK.check(spec(), tokenizer, config)
    with pytest.raises(ModelRefused, match="no mask token"):
        TASK.check(spec(), load_tokenizer(models_dir / "tiny"), config)
    with pytest.raises(ModelConfigInvalid, match="has 2 special tokens"):
        TASK.check(spec(tokenization={"max_length": 2}), tokenizer, config)
