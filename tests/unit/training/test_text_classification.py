import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from app.specs import JobSpec
from worker.training.errors import ClassUnknown
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tasks.protocol import Batch

Make = Callable[..., JobSpec]
Train = Callable[..., Any]
TASK = TASKS["text-classification"]
LABELS = ["a", "b", "c"]
TARGETS = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(12, 3)


def loss(spec: Make, logits: torch.Tensor, **training: Any) -> torch.Tensor:
    train = datasets.Dataset.from_dict({"labels": TARGETS})
    step = TASK.training_step(spec(training=training), LABELS, train)
    found = step(lambda: {"logits": logits}, Batch({}, {"labels": torch.tensor(TARGETS)}, num_items=12))
    assert found.num_items == 12
    return found.loss_sum / found.num_items


def test_the_plain_loss_is_the_mean_cross_entropy(spec: Make, logits: torch.Tensor) -> None:
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS))
    assert torch.allclose(loss(spec, logits), expected)


def test_balanced_weights_are_inverse_to_frequency(spec: Make, logits: torch.Tensor) -> None:
    weights = torch.tensor([12 / (3 * 6), 12 / (3 * 2), 12 / (3 * 4)])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), weight=weights)
    assert torch.allclose(loss(spec, logits, class_weights="balanced"), expected)


def test_named_weights_count_by_their_ratio(spec: Make, logits: torch.Tensor) -> None:
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), weight=torch.tensor([1.0, 4.0, 1.0]))
    assert torch.allclose(loss(spec, logits, class_weights={"b": 4.0}), expected)
    assert torch.allclose(loss(spec, logits, class_weights={"a": 2.0, "b": 8.0, "c": 2.0}), expected)


def test_label_smoothing_is_torchs(spec: Make, logits: torch.Tensor) -> None:
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), label_smoothing=0.3)
    assert torch.allclose(loss(spec, logits, label_smoothing=0.3), expected)


def test_a_weight_for_an_unknown_class_is_refused(spec: Make, logits: torch.Tensor) -> None:
    with pytest.raises(ClassUnknown, match="names 'd'"):
        loss(spec, logits, class_weights={"d": 1.0})
    with pytest.raises(ClassUnknown, match="weight of 'a' is -1"):
        loss(spec, logits, class_weights={"a": -1.0})


def test_long_rows_are_cut_and_counted_or_refused(spec: Make, train: Train, rows: Any) -> None:
    long = [*rows(8), {"text": "very " * 50, "label": "good"}]
    done = train(spec(data={"train": {"rows": long}}, training={"max_steps": 2}))
    assert done.result["status"] == "succeeded"
    assert any("1 of 9 train rows were truncated to 32 tokens" in note["message"] for note in done.of("note"))
    refused = train(spec(data={"train": {"rows": long}}, tokenization={"truncation": False}))
    assert refused.result["error"]["code"] == "row_too_long"
    assert "row 9 has 52 tokens, more than max_length 32" in refused.result["error"]["message"]
    assert refused.result["error"]["details"]["row"] == 9


def test_a_lowered_max_length_is_noted_where_it_was_asked_for(spec: Make, train: Train) -> None:
    done = train(spec(tokenization={"max_length": 100}, training={"max_steps": 1}))
    assert done.resolved.max_length == 32
    assert any("lowered to 32" in note["message"] for note in done.of("note"))


def test_a_default_max_length_is_lowered_without_a_word(spec: Make, train: Train) -> None:
    # As the service stores it: every default written out.
    stored = JobSpec.model_validate(spec(training={"max_steps": 1}).model_dump(mode="json"))
    done = train(stored)
    assert done.resolved.max_length == 32
    assert not any("max_length" in note["message"] for note in done.of("note"))


def test_a_label_of_thousands_of_digits_is_a_name_like_any_other(spec: Make, train: Train, rows: Any) -> None:
    digits = "7" * 5000
    labelled = {"rows": [{**row, "label": digits if row["label"] == "good" else "0"} for row in rows(8)]}
    data = {"train": labelled, "eval": labelled}
    assert train(spec(data=data, training={"max_steps": 1}), "learned").resolved.labels == ["0", digits]
    refused = train(spec(data=data, task={"labels": ["bad", "good"]}), "given").result["error"]
    assert refused["code"] == "bad_rows"
    assert refused["details"]["row"] == 2


def test_pairs_of_texts_are_distinguished(spec: Make, models_dir: Path) -> None:
    asked = spec(data={"columns": {"text": "q", "text_pair": "a", "label": "l"}, "train": {"rows": [{}]}})
    row = {"q": "good film", "a": "bad", "l": "b", "_row": 1}
    encoded = TASK.encode([row], load_tokenizer(models_dir / "tiny"), asked, LABELS, 16, "train")
    assert encoded["input_ids"] == [[2, 5, 14, 3, 9, 3]]
    assert encoded["token_type_ids"] == [[0, 0, 0, 0, 1, 1]]
    assert encoded["labels"] == [1]


@pytest.mark.parametrize(("padding", "width"), [("longest", 5), ("max_length", 16)])
def test_padding_is_to_the_longest_or_to_max_length(spec: Make, models_dir: Path, padding: str, width: int) -> None:
    collate = TASK.collate(load_tokenizer(models_dir / "tiny"), spec(tokenization={"padding": padding}), 16)
    batch = collate([{"input_ids": [2, 5, 3], "labels": 0}, {"input_ids": [2, 5, 6, 7, 3], "labels": 1}])
    assert batch.inputs["input_ids"].shape == (2, width)
    assert batch.inputs["attention_mask"].sum() == 8
    assert batch.targets["labels"].tolist() == [0, 1]


def test_pairs_train_from_end_to_end(spec: Make, train: Train, rows: Any) -> None:
    paired = [{**row, "other": "a plot"} for row in rows(12)]
    columns = {"columns": {"text_pair": "other"}, "train": {"rows": paired}, "eval": {"rows": paired}}
    done = train(spec(data=columns, training={"max_steps": 2}))
    assert done.result["status"] == "succeeded", done.result
    first = (done.out_dir / "model" / "evaluation" / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["text_pair"] == "a plot"


def test_a_class_may_bear_any_name(spec: Make, train: Train, rows: Any) -> None:
    renamed = [{**row, "label": "accuracy" if row["label"] == "good" else "macro avg|x"} for row in rows(12)]
    done = train(spec(data={"train": {"rows": renamed}, "eval": {"rows": renamed}}, training={"max_steps": 2}))
    report = json.loads((done.out_dir / "model" / "evaluation" / "report.json").read_text())
    assert report["accuracy"]["rows"] == report["macro avg|x"]["rows"] == 6


def test_a_gpu_that_is_not_there_can_be_retried_elsewhere(spec: Make, train: Train) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = train(spec(resources={"gpus": 1}))
    assert (done.result["error"]["code"], done.result["retryable"]) == ("gpu_missing", True)
    refused = train(spec(training={"precision": "fp16"}), "fp16")
    assert refused.result["error"]["code"] == "precision_unsupported"


def test_rows_that_changed_since_the_first_attempt_are_refused(spec: Make, train: Train, rows: Any) -> None:
    first = train(spec())
    again = train(spec(data={"train": {"rows": rows(20)}}), "again", resolved=first.resolved)
    assert again.result["error"]["code"] == "data_changed"


def test_resuming_needs_no_base_model(spec: Make, train: Train, models_dir: Path, tmp_path: Path) -> None:
    own = tmp_path / "models"
    shutil.copytree(models_dir, own)
    stopping = train(spec(), stop_when=lambda record: record["type"] == "progress", models_dir=own)
    shutil.rmtree(own)
    checkpoint = next((stopping.out_dir / "checkpoints").iterdir())
    done = train(spec(), resolved=stopping.resolved, resume_from=checkpoint, models_dir=own)
    assert done.result["status"] == "succeeded", done.result


def test_bf16_trains_where_the_processor_is_quick_at_it(spec: Make, train: Train) -> None:
    done = train(spec(training={"precision": "bf16"}))
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16") or able.get("avx512_bf16"):
        assert done.result["status"] == "succeeded", done.result
        assert done.resolved.precision == "bf16"
        assert load_file(done.out_dir / "model" / "model.safetensors")["classifier.weight"].dtype == torch.float32
    else:
        assert done.result["error"]["code"] == "precision_unsupported"


def test_an_automatic_precision_on_a_cpu_is_fp32(spec: Make, train: Train) -> None:
    done = train(spec(training={"batch_size": "auto"}, evaluation={"batch_size": 3}))
    assert (done.resolved.precision, done.resolved.batch_size, done.resolved.eval_batch_size) == ("fp32", 16, 3)
    assert done.resolved.total_steps == 4


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_several_labels_are_learned_and_predicted(spec: Make, train: Train, engine: str) -> None:
    rows = [
        {
            "text": f"the film was {first} and {second}",
            "label": [mood for mood in (MOODS[first], MOODS[second]) if mood],
        }
        for first in MOODS
        for second in MOODS
    ] * 3
    asked = spec(
        task={"problem": "multi-label"},
        data={"train": {"rows": rows}, "eval": {"rows": rows[:16]}},
        training={"engine": engine, "epochs": 20},
    )
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    assert done.resolved.labels == ["bad", "good"]
    assert done.result["metrics"]["eval_f1_micro"] > 0.9
    classify = pipeline("text-classification", model=str(done.out_dir / "model"), top_k=None)
    for line in map(json.loads, (done.out_dir / "model" / "evaluation" / "predictions.jsonl").read_text().splitlines()):
        said = {answer["label"]: answer["score"] for answer in classify([line["text"]])[0]}
        assert said == pytest.approx(line["scores"], abs=1e-4)
        assert line["predicted"] == [name for name in ("bad", "good") if line["scores"][name] > 0.5]


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_numbers_are_learned_and_predicted(spec: Make, train: Train, engine: str, rows: Any) -> None:
    numbered = [{**row, "label": 1.5 if row["label"] == "good" else -0.5} for row in rows(24)]
    asked = spec(
        task={"problem": "regression"},
        data={"train": {"rows": numbered}, "eval": {"rows": numbered[:8]}},
        training={"engine": engine, "epochs": 12},
        evaluation={"best_by": "rmse"},
    )
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    assert done.result["metrics"]["eval_rmse"] < 0.3
    model = AutoModelForSequenceClassification.from_pretrained(done.out_dir / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(done.out_dir / "model")
    line = json.loads((done.out_dir / "model" / "evaluation" / "predictions.jsonl").read_text().splitlines()[0])
    said = model(**tokenizer(line["text"], return_tensors="pt")).logits.item()
    assert said == pytest.approx(line["predicted"], abs=1e-4)


MOODS = {"good": "good", "bad": "bad", "a": "", "very": ""}
