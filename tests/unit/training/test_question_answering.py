import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tiny_models import make_reader, questions
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerFast

from app.specs import JobSpec
from worker.training.errors import ModelConfigInvalid, ModelRefused, RowTooLong
from worker.training.evaluation.metrics import compute
from worker.training.evaluation.metrics.spans import SPANS, scores
from worker.training.inputs.sources import from_rows
from worker.training.methods import load_trainable
from worker.training.models.pretrained import load_tokenizer
from worker.training.tasks import TASKS
from worker.training.tasks.protocol import Batch, Pass, Split
from worker.training.tasks.question_answering import Found

Train = Callable[..., Any]
TASK: Any = TASKS["question-answering"]
ENGINES = pytest.mark.parametrize("engine", ["trainer", "pytorch"])
CONTEXT = "we met in and then left with saw ada"


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_reader(folder / "reader")
    return folder


@pytest.fixture
def tokenizer(models_dir: Path) -> Any:
    return load_tokenizer(models_dir / "reader")


def asked(missing: int = 0, **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "question-answering", "no_answer": bool(missing)},
        "model": {"id": "local:reader"},
        "data": {"train": {"rows": questions(72, missing)}, "eval": {"rows": questions(24, missing)}},
        "training": {"epochs": 10, "batch_size": 8, "learning_rate": 0.005, "logging_steps": 1},
        "evaluation": {"at_start": True},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def row(answers: Any, question: str = "who ?", context: str = CONTEXT) -> dict[str, Any]:
    return {"question": question, "context": context, "answers": answers, "_row": 1}


def encode(tokenizer: Any, rows: list[dict[str, Any]], max_length: int = 11, **parts: Any) -> dict[str, Any]:
    return TASK.encode(rows, tokenizer, asked(**parts), [], max_length, "eval")


def texts(found: dict[str, Any], tokenizer: Any) -> list[str]:
    return [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in found["input_ids"]]


def test_a_long_context_is_read_through_windows(tokenizer: Any) -> None:
    rows = [row("left with"), row({"text": ["met in"], "answer_start": [3]}, context="we met in"), row(None)]
    found = encode(tokenizer, rows, task={"stride": 2})
    assert texts(found, tokenizer) == [
        "[CLS] who ? [SEP] we met in and then left [SEP]",
        "[CLS] who ? [SEP] then left with saw ada [SEP]",
        "[CLS] who ? [SEP] we met in [SEP]",
        "[CLS] who ? [SEP] we met in and then left [SEP]",
        "[CLS] who ? [SEP] then left with saw ada [SEP]",
    ]
    assert found["_place"] == [0, 0, 1, 2, 2]
    # The first window ends within the answer; windows without it point at CLS.
    assert found["labels"] == [[0, 0], [5, 6], [5, 6], [0, 0], [0, 0]]
    assert found["_context"] == [4] * 5
    assert found["_null"] == [0] * 5
    assert found["_offsets"][2] == [0, 2, 3, 6, 7, 9]
    assert found["token_type_ids"][2] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found["truncated"] == [False] * 3


def test_what_only_an_evaluation_needs_is_left_out_of_train(tokenizer: Any) -> None:
    found = TASK.encode([row("ada")], tokenizer, asked(), [], 11, "train")
    assert set(found) == {"input_ids", "token_type_ids", "labels", "truncated"}


def test_windows_share_no_more_than_half(tokenizer: Any) -> None:
    # Six tokens of context a window, and 128 asked for.
    assert [text.split("[SEP] ")[1] for text in texts(encode(tokenizer, [row("ada")]), tokenizer)] == [
        "we met in and then left [SEP]",
        "and then left with saw ada [SEP]",
    ]
    # Rows with questions of other lengths keep their order, though they have another stride.
    found = encode(tokenizer, [row("ada", "where who ?"), row("ada"), row("ada", "where who ?")])
    assert found["_place"] == sorted(found["_place"])
    assert [text.split()[1] for text in texts(found, tokenizer)][:2] == ["where", "where"]


def test_a_question_takes_half_of_a_sequence_at_most(tokenizer: Any) -> None:
    rows = [row("ada"), row("ada", question="who we met in and then ?")]
    found = encode(tokenizer, rows)
    assert found["truncated"] == [False, True]
    assert texts(found, tokenizer)[-1].startswith("[CLS] who we met in [SEP] ")
    assert len(found["input_ids"][-1]) <= 11
    with pytest.raises(RowTooLong, match="row 1: its question has 7 tokens; 4 of max_length 11 are for it"):
        encode(tokenizer, rows, tokenization={"truncation": False})


def test_spaces_around_an_answer_are_no_part_of_it(tokenizer: Any) -> None:
    found = encode(tokenizer, [row({"text": [" met in "], "answer_start": [2]}, context="we met in oslo")])
    assert found["labels"] == [[5, 6]]


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_byte_level_tokenizers_find_and_tell_the_same_text(trim_offsets: bool) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", "<pad>", *alphabet, "in", "Ġin"]
    bpe = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [("i", "n"), ("Ġ", "in")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets, add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", cls_token="<s>", model_input_names=["input_ids", "attention_mask"]
    )
    found = encode(fast, [row("in é", context="in in é")], max_length=32)
    tokens = fast.convert_ids_to_tokens(found["input_ids"][0])
    start, end = found["labels"][0]
    assert tokens[start : end + 1] == ["Ġin", "Ġ", "Ã", "©"]
    split = split_of(asked(), [{"question": "?", "context": "in in é", "answers": "in é"}], [0])
    first, last = (found["_offsets"][0][2 * (place - found["_context"][0]) :][:2] for place in (start, end))
    answers = [Found(0.0, [(1.0, first[0], last[1])])]
    assert TASK.eval_prediction(split, answers).predictions == ["in é"]
    assert next(TASK.describe(split, answers, TASK.eval_prediction(split, answers)))["start"] == 3


def test_a_tokenizer_with_cls_at_the_end_or_none_has_its_null_place(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="$A [CLS]", pair="$A $B:1 [CLS]:1", special_tokens=[("[CLS]", 2)]
    )
    assert encode(tokenizer, [row(None, context="we met")])["labels"] == [[4, 4]]
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    assert encode(tokenizer, [row(None, context="we met")])["labels"] == [[0, 0]]


@pytest.mark.parametrize(("padding", "width"), [("longest", 8), ("max_length", 16)])
def test_padding_is_on_the_right_so_that_places_stay(tokenizer: Any, padding: str, width: int) -> None:
    tokenizer.padding_side = "left"
    found = encode(tokenizer, [row("met", context="we met"), row("we", context="we met in")])
    features = [{name: found[name][n] for name in ("input_ids", "token_type_ids", "labels")} for n in range(2)]
    batch = TASK.collate(tokenizer, asked(tokenization={"padding": padding}), 16)(features)
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape == (2, width)
    assert batch.inputs["input_ids"][0, :7].tolist() == found["input_ids"][0]
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [7, 8]
    assert batch.targets["places"].tolist() == [[5, 5], [4, 4]]


def test_the_loss_is_the_models_own_and_a_mean_over_windows(models_dir: Path, tokenizer: Any) -> None:
    spec = asked()
    model, head = TASK.build_model(models_dir / "reader", spec, [])
    assert head == ("qa_outputs.bias", "qa_outputs.weight")
    model.eval()
    found = encode(tokenizer, [row("ada"), row("met"), row("in and")])
    features = [
        {name: found[name][n] for name in ("input_ids", "token_type_ids", "labels")}
        for n in range(len(found["labels"]))
    ]
    step = TASK.training_step(spec, [], datasets.Dataset.from_dict({"labels": []}))
    collate = TASK.collate(tokenizer, spec, 11)
    with torch.no_grad():
        batch = collate(features)
        places = batch.targets["places"]
        own = model(**batch.inputs, start_positions=places[:, 0], end_positions=places[:, 1]).loss
        found = step(model, batch)
        assert found.num_items == len(features) == 6
        assert torch.allclose(found.loss_sum / 6, own)
        parts = [step(model, collate(some)) for some in (features[:1], features[1:])]
        assert sum(part.num_items for part in parts) == 6
        assert torch.allclose(sum(part.loss_sum for part in parts) / 6, own)


def test_models_that_cannot_point_into_the_text_are_refused(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelRefused, match="its tokenizer Slow does not give"):
        TASK.check(asked(), Slow(), None)
    with pytest.raises(ModelConfigInvalid, match="max_length is 10"):
        TASK.check(asked(tokenization={"max_length": 10}), tokenizer, None)
    TASK.check(asked(tokenization={"max_length": 11}), tokenizer, None)


def answers_to(features: list[dict[str, Any]], starts: list[list[float]], ends: list[list[float]], **task: Any) -> Any:
    outputs = {"start_logits": torch.tensor(starts), "end_logits": torch.tensor(ends)}
    return TASK.answers(Pass(None, features, Batch({}, {}, len(features)), outputs), asked(task=task), None)


def test_the_best_span_is_in_the_context_and_not_too_long() -> None:
    # CLS, question, SEP, four tokens of context, SEP.
    feature = {"_null": 0, "_context": 3, "_offsets": [0, 2, 3, 5, 6, 8, 9, 11]}
    starts = [[1.0, 9.0, 9.0, 5.0, 0.5, 3.0, 0.0, 9.0]]
    ends = [[2.0, 9.0, 9.0, 0.0, 1.0, 0.0, 4.0, 9.0]]
    (found,) = answers_to([feature], starts, ends)
    assert found.null == 3.0
    assert found.spans == [(9.0, 0, 11), (7.0, 6, 11), (4.5, 3, 11), (4.0, 9, 11)]
    (short,) = answers_to([feature], starts, ends, max_answer_length=2)
    assert short.spans == [(7.0, 6, 11), (6.0, 0, 5), (4.0, 9, 11), (1.5, 3, 5)]
    (nothing,) = answers_to([{**feature, "_offsets": []}], starts, ends)
    assert nothing.spans == []


def test_the_best_span_is_that_of_every_pair_compared() -> None:
    torch.manual_seed(7)
    starts, ends = torch.randn(4, 40), torch.randn(4, 40)
    offsets = [place for n in range(30) for place in (n, n + 1)]
    feature = {"_null": 0, "_context": 5, "_offsets": offsets}
    found = answers_to([feature] * 4, starts.tolist(), ends.tolist(), max_answer_length=6)
    for number, one in enumerate(found):
        pairs = {
            (a, b + 1): float(starts[number, a + 5] + ends[number, b + 5])
            for a in range(30)
            for b in range(a, min(a + 6, 30))
        }
        best = max(pairs, key=pairs.__getitem__)
        assert one.spans[0] == (pytest.approx(pairs[best]), *best)


def split_of(spec: JobSpec, rows: list[dict[str, Any]], places: list[int]) -> Split:
    return Split(spec, [], None, from_rows(rows), datasets.Dataset.from_dict({"_place": places}))


@pytest.mark.parametrize("no_answer", [False, True])
def test_windows_of_a_row_are_evaluated_together(no_answer: bool) -> None:
    rows = [
        {"question": "who ?", "context": CONTEXT, "answers": "ada"},
        {"question": "where ?", "context": CONTEXT, "answers": None},
    ]
    answers = [
        Found(9.0, [(2.0, 0, 2)]),
        Found(4.0, [(5.0, 33, 36), (5.0, 29, 36)]),
        Found(8.0, [(7.0, 0, 2)]),
    ]
    split = split_of(asked(task={"no_answer": no_answer}), rows, [0, 0, 1])
    evaluated = TASK.eval_prediction(split, answers)
    # The first window of row 1 is sure that there is no answer, the second that there is.
    assert evaluated.predictions == ["ada", "" if no_answer else "we"]
    assert evaluated.references == [["ada"], []]
    first, second = TASK.describe(split, answers, evaluated)
    assert first == {
        "row": 1,
        "question": "who ?",
        "context": CONTEXT,
        "answers": ["ada"],
        "predicted": "ada",
        "start": 33,
        "score": 1.0,
        "best": [
            {"text": "ada", "start": 33, "score": 5.0},
            {"text": "saw ada", "start": 29, "score": 5.0},
            {"text": "we", "start": 0, "score": 2.0},
        ],
    }
    assert (second["start"], second["score"]) == (None if no_answer else 0, -1.0)
    assert TASK.report(split, evaluated) == {
        "with an answer": {"f1": 1.0, "exact_match": 1.0, "rows": 1},
        "without an answer": {"f1": float(no_answer), "exact_match": float(no_answer), "rows": 1},
    }


def test_scores_are_those_of_the_official_script(tmp_path: Path) -> None:
    # What evaluate-v2.0.py says of these, divided by 100.
    evaluated = ["the Normans", "in the 10th and 11th centuries", "Rollo, a Viking", "", "France", "an"]
    right = [
        ["Normans"],
        ["10th and 11th centuries", "in the 10th and 11th centuries", "10th century"],
        ["Rollo"],
        [],
        [],
        ["the", "a!"],
    ]
    assert scores("exact_match", evaluated, right) == [1, 1, 0, 1, 0, 1]
    assert scores("f1", evaluated, right) == pytest.approx([1, 1, 2 / 3, 1, 0, 1])
    found = compute(SPANS, ["f1", "exact_match"], evaluated, right, tmp_path)
    assert found == pytest.approx({"f1": 0.7777777777777777, "exact_match": 0.6666666666666666})


def predictions(done: Any) -> list[dict[str, Any]]:
    text = (done.out_dir / "model" / "evaluation" / "predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@ENGINES
@pytest.mark.parametrize("missing", [0, 4])
def test_a_reader_learns_and_its_card_says_how_to_ask_it(train: Train, engine: str, missing: int) -> None:
    spec = asked(missing, training={"engine": engine})
    done = train(spec)
    assert done.result["status"] == "succeeded", done.result
    losses, f1 = list(done.series("loss").values()), done.series("eval_f1")
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert f1[0] < 0.5
    assert done.result["metrics"]["eval_exact_match"] > 0.9
    assert (done.out_dir / "model" / "evaluation" / "report.json").exists() is bool(missing)
    folder, code = done.out_dir / "model", TASK.use(spec)
    assert code.replace("FOLDER", "PATH/TO/THIS/FOLDER") in (folder / "README.md").read_text()
    for line in predictions(done)[:8]:
        given = code.replace("FOLDER", str(folder)).replace('"…", "…"', f"{line['question']!r}, {line['context']!r}")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(given, {})  # noqa: S102 - what a reader of the card would run
        assert said.getvalue().strip() == (line["predicted"] or "no answer")


@ENGINES
def test_lora_learns_too(train: Train, engine: str) -> None:
    done = train(asked(training={"engine": engine, "method": {"type": "lora"}, "epochs": 20}))
    assert done.result["status"] == "succeeded", done.result
    losses, f1 = list(done.series("loss").values()), done.series("eval_f1")
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert f1[0] < 0.7
    assert done.result["metrics"]["eval_f1"] == max(f1.values()) > 0.9
    AutoModelForQuestionAnswering.from_pretrained(done.out_dir / "model")


def test_lora_learns_from_which_part_is_the_question(plan: Callable[[JobSpec], Any]) -> None:
    model = load_trainable(plan(asked(training={"method": {"type": "lora"}}))).eval()
    ids = torch.tensor([[2, 4, 6, 3, 8, 9, 3]])
    first, second = (model(input_ids=ids, token_type_ids=parts).start_logits for parts in (0 * ids, (ids > 6).long()))
    assert not torch.allclose(first, second)


def test_a_window_knows_its_row_in_the_whole_split(plan: Callable[[JobSpec], Any]) -> None:
    # Rows are encoded a thousand at a time.
    ready = plan(asked(data={"eval": {"rows": questions(1003)}}, tokenization={"max_length": 11}))
    places = ready.encoded["eval"]["_place"][:]
    assert places == sorted(places)
    assert set(places) == set(range(1003))


@ENGINES
def test_steps_are_counted_in_windows_and_resuming_changes_no_byte(train: Train, engine: str) -> None:
    data = {"train": {"rows": questions(16, 4)}, "eval": {"rows": questions(6, 4)}}
    parts: dict[str, Any] = {"data": data, "tokenization": {"max_length": 11}, "evaluation": {"at_start": False}}
    model = {"id": "local:reader", "config": {"hidden_dropout_prob": 0.1}}
    spec = asked(4, model=model, training={"engine": engine, "epochs": 2}, **parts)
    whole = train(spec, "whole")
    assert whole.result["status"] == "succeeded", whole.result
    rows = [{**one, "_row": 1} for one in questions(16, 4)]
    windows = len(TASK.encode(rows, load_tokenizer(whole.out_dir / "model"), spec, [], 11, "train")["labels"])
    assert windows > 16
    assert whole.result["step"] == whole.resolved.total_steps == 2 * -(-windows // 8)
    assert [line["row"] for line in predictions(whole)] == [1, 2, 3, 4, 5, 6]
    stopped = train(spec, "stopped", stop_when=lambda record: record.get("step") == 5)
    assert stopped.result["status"] == "stopped"
    checkpoint = max((stopped.out_dir / "checkpoints").iterdir())
    again = train(spec, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.result["status"] == "succeeded", again.result
    assert again.weights == whole.weights
    assert again.result["step"] == whole.result["step"]
