import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from sklearn.metrics import f1_score as f1_of_classes
from tiny_models import make_tagger, tagged_sentences
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline

from app.specs import JobSpec
from worker.training.errors import ModelRefused, RowTooLong
from worker.training.evaluation.metrics import compute
from worker.training.evaluation.metrics.tagging import TAGS, UNPREDICTED, per_class
from worker.training.inputs.sources import class_names, from_rows
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tasks.protocol import Batch, Split

Train = Callable[..., Any]
TASK = TASKS["token-classification"]
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
ENGINES = pytest.mark.parametrize("engine", ["trainer", "pytorch"])


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tagger(folder / "tagger")
    return folder


@pytest.fixture(scope="session")
def tokenizer(models_dir: Path) -> Any:
    return load_tokenizer(models_dir / "tagger")


def asked(**parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "token-classification"},
        "model": {"id": "local:tagger"},
        "data": {"train": {"rows": tagged_sentences(36)}, "eval": {"rows": tagged_sentences(18)}},
        "training": {"epochs": 6, "batch_size": 4, "learning_rate": 0.01, "logging_steps": 1},
        "evaluation": {"at_start": True},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def encode(tokenizer: Any, tokens: Any, tags: list[str], max_length: int = 32, **parts: Any) -> dict[str, Any]:
    row = {"tokens": tokens, "tags": tags, "_row": 1}
    return TASK.encode([row], tokenizer, asked(**parts), LABELS, max_length, "train")


def test_a_tag_stands_at_the_first_piece_of_its_word(tokenizer: Any) -> None:
    found = encode(tokenizer, ["Adason", "met", "Romeland", "."], ["B-PER", "O", "B-LOC", "O"])
    pieces = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    assert pieces == ["[CLS]", "ada", "##son", "met", "rome", "##land", ".", "[SEP]"]
    assert found["labels"][0].tolist() == [-100, 3, -100, 0, 1, -100, 0, -100]
    assert found["_words"][0].tolist() == [0, 1, 2, 3]
    assert found["truncated"] == [False]


def test_words_of_several_parts_and_without_any_keep_their_places(tokenizer: Any) -> None:
    # A space within a word, a sign that the normaliser takes away, and a sign that stands for itself.
    found = encode(tokenizer, ["ada rome", "\u200b", "in,", "oslo"], ["B-PER", "O", "O", "B-LOC"])
    pieces = tokenizer.convert_ids_to_tokens(found["input_ids"][0])
    assert pieces == ["[CLS]", "ada", "rome", "in", ",", "oslo", "[SEP]"]
    assert found["labels"][0].tolist() == [-100, 3, -100, 0, -100, 1, -100]
    assert found["_words"][0].tolist() == [0, 2, 3]


def test_long_rows_are_cut_or_refused(tokenizer: Any) -> None:
    tokens, tags = ["ada", "romeland", "oslo"], ["B-PER", "B-LOC", "I-LOC"]
    found = encode(tokenizer, tokens, tags, max_length=4)
    assert found["labels"][0].tolist() == [-100, 3, 1, -100]
    assert (found["_words"][0].tolist(), found["truncated"]) == ([0, 1], [True])
    with pytest.raises(RowTooLong, match="row 1 has 6 tokens, more than max_length 4"):
        encode(tokenizer, tokens, tags, max_length=4, tokenization={"truncation": False})


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_byte_level_words_are_written_with_the_space_they_are_known_by(trim_offsets: bool) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<pad>", *alphabet, "in", "Ġin"])}
    bpe = Tokenizer(models.BPE(vocabulary, [("i", "n"), ("Ġ", "in")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>")
    found = encode(fast, ["in", "in", "é"], ["O", "B-LOC", "B-PER"])
    assert fast.convert_ids_to_tokens(found["input_ids"][0]) == ["in", "Ġin", "Ġ", "Ã", "©"]
    # The space before "é" is a token of its own: the word's first piece is the one after it.
    assert found["labels"][0].tolist() == [0, 1, -100, 3, -100]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("padding", "width"), [("longest", 5), ("max_length", 16)])
def test_labels_are_padded_as_their_tokens_are(models_dir: Path, side: str, padding: str, width: int) -> None:
    tokenizer = load_tokenizer(models_dir / "tagger")
    tokenizer.padding_side = side
    collate = TASK.collate(tokenizer, asked(tokenization={"padding": padding}), 16)
    rows = [{"input_ids": [2, 5, 3], "labels": [-100, 1, -100]}, {"input_ids": [2, 5, 6, 7, 3], "labels": [-100] * 5}]
    batch = collate(rows)
    tags = batch.targets["tags"]
    assert batch.inputs["input_ids"].shape == tags.shape == (2, width)
    at = (tags == 1).nonzero().tolist()
    assert at == [[0, 1 if side == "right" else width - 2]]
    assert batch.inputs["input_ids"][0, at[0][1]] == 5
    assert batch.num_items == 1


def test_the_loss_is_the_models_own_and_a_mean_over_words(models_dir: Path, tokenizer: Any) -> None:
    model, head = TASK.build_model(models_dir / "tagger", asked(), LABELS)
    assert head == ("classifier.bias", "classifier.weight")
    model.eval()
    spec = asked()
    rows = [{**row, "_row": 1} for row in tagged_sentences(6)]
    found = TASK.encode(rows, tokenizer, spec, LABELS, 32, "train")
    features = [
        {"input_ids": ids, "labels": tags} for ids, tags in zip(found["input_ids"], found["labels"], strict=True)
    ]
    step = TASK.training_step(spec, LABELS, datasets.Dataset.from_dict({"labels": [[0]]}))
    collate = TASK.collate(tokenizer, spec, 32)
    with torch.no_grad():
        whole = collate(features)
        own = model(**whole.inputs, labels=whole.targets["tags"]).loss
        found = step(model, whole)
        assert torch.allclose(found.loss_sum / found.num_items, own)
        parts = [step(model, collate(some)) for some in (features[:1], features[1:])]
        words = sum(part.num_items for part in parts)
        assert words == 6 + 6 + 8 + 6 + 6 + 8
        assert torch.allclose(sum(part.loss_sum for part in parts) / words, own)
        nothing = torch.full_like(whole.targets["tags"], -100)
        assert float(step(model, Batch(whole.inputs, {"tags": nothing}, 0)).loss_sum) == 0


def test_classes_are_weighed_by_the_words_of_train(tokenizer: Any) -> None:
    train = datasets.Dataset.from_dict({"labels": [[-100, 0, 0, -100], [0, 1, -100, -100]]})
    torch.manual_seed(3)
    outputs, labels = {"logits": torch.randn(2, 4, 2)}, torch.tensor(train["labels"][:])
    spec = asked(training={"class_weights": "balanced", "label_smoothing": 0.1})
    expected = torch.nn.functional.cross_entropy(
        outputs["logits"].flatten(0, 1),
        labels.flatten(),
        weight=torch.tensor([4 / (2 * 3), 4 / (2 * 1)]),
        label_smoothing=0.1,
        reduction="sum",
    )
    found = TASK.training_step(spec, ["O", "X"], train)(lambda: outputs, Batch({}, {"tags": labels}, 4))
    assert torch.allclose(found.loss_sum, expected)


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelRefused, match="its tokenizer Slow does not say"):
        TASK.check(asked(), Slow(), None)


TRUE = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
GUESS = [["B-PER", "O", "O", "B-LOC"], ["O", "O"]]


def test_entities_are_counted_whole(tmp_path: Path) -> None:
    found = compute(TAGS, list(TAGS), GUESS, TRUE, tmp_path)
    # One of two evaluated entities is one of the three there are; four of six words are right.
    assert found == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "accuracy": 4 / 6})
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score, "accuracy": accuracy_score}
    assert found == pytest.approx({name: score(TRUE, GUESS) for name, score in scores.items()})
    assert per_class(GUESS, TRUE, LABELS) == {
        "LOC": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "entities": 2},
        "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1},
    }


def test_nothing_but_o_is_no_division_by_zero(tmp_path: Path) -> None:
    assert compute(TAGS, ["f1", "accuracy"], [["O"]], [["O"]], tmp_path) == {"f1": 0.0, "accuracy": 1.0}


def test_without_a_scheme_words_are_counted_and_unpredicted_ones_are_wrong(tmp_path: Path) -> None:
    true, guess = [0, 1, 1, 2, 0], [0, 1, 0, 2, UNPREDICTED]
    found = compute(TAGS, ["f1", "accuracy"], guess, true, tmp_path)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(f1_of_classes(true, guess, labels=[0, 1, 2], average="macro"))
    assert per_class(guess, true, ["a", "b", "c", "d"])["a"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "words": 2}
    assert per_class(guess, true, ["a", "b", "c", "d"])["d"]["words"] == 0


def split_of(spec: JobSpec, labels: list[str], rows: list[dict[str, Any]], tokenizer: Any, max_length: int) -> Split:
    table = from_rows(rows)
    batch = list(table)
    encoded = TASK.encode(batch, tokenizer, spec, labels, max_length, "eval")
    return Split(spec, labels, tokenizer, table, datasets.Dataset.from_dict({"_words": encoded["_words"]}))


@pytest.mark.parametrize(("scheme", "missing"), [("BIO", "O"), ("none", None)])
def test_words_that_were_cut_off_are_evaluated_all_the_same(tokenizer: Any, scheme: str, missing: str | None) -> None:
    import numpy as np

    rows = [
        {"tokens": "ada romeland oslo", "tags": ["B-PER", "B-LOC", "I-LOC"]},
        {"tokens": ["ada"], "tags": ["B-PER"]},
    ]
    split = split_of(asked(task={"scheme": scheme}), LABELS, rows, tokenizer, 4)
    answers = [np.array([3, 1]), np.array([0])]
    evaluated = TASK.eval_prediction(split, answers)
    assert len(evaluated.predictions) == len(evaluated.references) == (2 if scheme == "BIO" else 4)
    lines = list(TASK.describe(split, answers, evaluated))
    assert lines[0] == {
        "row": 1,
        "tokens": ["ada", "romeland", "oslo"],
        "tags": ["B-PER", "B-LOC", "I-LOC"],
        "predicted": ["B-PER", "B-LOC", missing],
    }
    assert lines[1]["predicted"] == ["O"]
    report = TASK.report(split, evaluated)
    assert report is not None
    assert report["LOC" if scheme == "BIO" else "I-LOC"]["recall"] == 0.0


def test_tags_of_a_hub_dataset_have_its_names() -> None:
    names = ["O", "B-PER"]
    assert class_names(datasets.ClassLabel(names=names)) == names
    assert class_names(datasets.List(datasets.ClassLabel(names=names))) == names
    assert class_names(datasets.Sequence(datasets.ClassLabel(names=names))) == names
    assert class_names(datasets.List(datasets.Value("int64"))) == []
    assert class_names({"a": datasets.Value("int64")}) == []


def predictions(done: Any) -> list[dict[str, Any]]:
    text = (done.out_dir / "model" / "evaluation" / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@ENGINES
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tagger_learns_and_predicts_in_a_pipeline_what_was_reported(train: Train, engine: str, method: str) -> None:
    done = train(asked(training={"engine": engine, "method": {"type": method}}))
    assert done.result["status"] == "succeeded", done.result
    losses, f1 = list(done.series("loss").values()), done.series("eval_f1")
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert f1[0] < 0.5
    assert done.result["metrics"]["eval_f1"] > 0.9
    assert done.resolved.labels == LABELS
    report = json.loads((done.out_dir / "model" / "evaluation" / "report.json").read_text())
    assert report["PER"]["entities"] == report["LOC"]["entities"] == 18
    tag = pipeline("token-classification", model=str(done.out_dir / "model"), aggregation_strategy="first")
    for line in predictions(done):
        text = " ".join(line["tokens"])
        groups = {(group["start"], group["end"]): group["entity_group"] for group in tag(text)}
        assert groups == entities(line["tokens"], line["predicted"])


def entities(tokens: list[str], tags: list[str]) -> dict[tuple[int, int], str]:
    """Characters from and to, and the name, of each entity in the words joined by spaces."""
    found: list[list[Any]] = []
    place = 0
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("B-") or (tag.startswith("I-") and not (found and found[-1][1] == place - 1)):
            found.append([place, place + len(token), tag[2:]])
        elif tag.startswith("I-"):
            found[-1][1] = place + len(token)
        place += len(token) + 1
    return {(start, end): name for start, end, name in found}


def test_tags_without_places_are_counted_as_words(train: Train) -> None:
    rows = [
        {"tokens": " ".join(row["tokens"]), "tags": " ".join(tag[-3:] for tag in row["tags"])}
        for row in tagged_sentences(24)
    ]
    data = {"train": {"rows": rows}, "eval": {"rows": rows[:9]}}
    done = train(asked(task={"scheme": "none"}, data=data))
    assert done.result["status"] == "succeeded", done.result
    assert done.resolved.labels == ["LOC", "O", "PER"]
    assert done.result["metrics"]["eval_accuracy"] > 0.9
    assert set(predictions(done)[0]["predicted"]) <= {"LOC", "O", "PER"}
    model = AutoModelForTokenClassification.from_pretrained(done.out_dir / "model")
    assert model.config.id2label == {0: "LOC", 1: "O", 2: "PER"}


def test_cut_rows_are_noted_and_a_train_without_any_word_is_refused(train: Train) -> None:
    cut = train(asked(tokenization={"max_length": 4}, training={"max_steps": 2}), "cut")
    assert any("36 of 36 train rows were truncated to 4 tokens" in note["message"] for note in cut.of("note"))
    assert cut.result["metrics"]["eval_recall"] < 1
    none = train(asked(tokenization={"max_length": 2}), "none")
    assert (none.result["error"]["code"], none.result["retryable"]) == ("no_rows", False)
    assert "no word to learn from" in none.result["error"]["message"]


@ENGINES
def test_resuming_ends_where_an_undisturbed_run_does(train: Train, engine: str) -> None:
    spec = asked(training={"engine": engine, "epochs": 2, "class_weights": "balanced"})
    whole = train(spec, "whole")
    stopped = train(spec, "stopped", stop_when=lambda record: record.get("step") == 5)
    assert stopped.result["status"] == "stopped"
    checkpoint = max((stopped.out_dir / "checkpoints").iterdir())
    again = train(spec, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.result["status"] == "succeeded", again.result
    assert again.weights == whole.weights
