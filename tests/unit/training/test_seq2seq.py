import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_texts import make_translator, translations
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
)

from app.specs import JobSpec
from worker.training.checkpoints.folders import newest_valid
from worker.training.errors import ModelConfigInvalid, ModelRefused, RowTooLong
from worker.training.evaluation.evaluation import split_of
from worker.training.evaluation.prediction import forward, gather, training_step
from worker.training.loop.feed import learned
from worker.training.loop.losses import CrossEntropy
from worker.training.methods import load_published, load_trainable
from worker.training.models.pretrained import load_config, load_tokenizer
from worker.training.planning.plan import Plan
from worker.training.tasks import TASKS

Train = Callable[..., Any]
MakePlan = Callable[[JobSpec], Plan]
TASK = TASKS["seq2seq"]
LORA = {"type": "lora", "rank": 8, "alpha": 16}
SIZES: dict[str, Any] = {
    f"{side}_{part}": size
    for side in ("encoder", "decoder")
    for part, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
} | {"d_model": 16, "max_position_embeddings": 40}


@pytest.fixture(scope="module", autouse=True)
def translators(models_dir: Path) -> Path:
    make_translator(models_dir / "t5")
    make_translator(models_dir / "bart", "bart")
    return models_dir


@pytest.fixture
def tokenizer(translators: Path) -> Any:
    return load_tokenizer(translators / "t5")


def spec(task: dict[str, Any] | None = None, **parts: Any) -> JobSpec:
    body: dict[str, Any] = {
        "task": {"type": "seq2seq", "max_target_length": 6, **(task or {})},
        "model": {"id": "local:t5"},
        "data": {"train": {"rows": translations(36)}, "eval": {"rows": translations(12)}},
        "training": {"epochs": 4, "batch_size": 6, "learning_rate": 0.01, "logging_steps": 1},
        "evaluation": {"metrics": ["exact_match", "bleu", "chrf", "rougeL", "perplexity"]},
        "resources": {"gpus": 0},
    }
    for name, part in parts.items():
        body[name] = {**body.get(name, {}), **part}
    return JobSpec.model_validate(body)


def encode(asked: JobSpec, tokenizer: Any, *rows: tuple[str, str], max_length: int = 16) -> dict[str, list[Any]]:
    numbered = [{"source": one, "target": two, "_row": number} for number, (one, two) in enumerate(rows, start=1)]
    return TASK.encode(numbered, tokenizer, asked, [], max_length, "train")


def predictions(done: Any) -> list[dict[str, Any]]:
    path = done.out_dir / "model" / "evaluation" / "predictions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sources_have_the_prefix_and_targets_their_end(tokenizer: Any) -> None:
    found = encode(spec({"prefix": "translate: "}), tokenizer, ("one two", "uno dos"))
    assert tokenizer.convert_ids_to_tokens(found["input_ids"][0]) == ["translate:", "one", "two", "</s>"]
    assert tokenizer.convert_ids_to_tokens(found["labels"][0]) == ["uno", "dos", "</s>"]
    assert set(found) == {"input_ids", "labels", "truncated"}


def test_what_is_too_long_on_either_side_is_truncated_and_reported(tokenizer: Any) -> None:
    asked = spec({"max_target_length": 3})
    rows = (("one two", "uno dos"), ("one two three", "uno"), ("one", "uno dos tres"))
    found = encode(asked, tokenizer, *rows, max_length=3)
    assert found["truncated"] == [False, True, True]
    assert tokenizer.convert_ids_to_tokens(found["labels"][2]) == ["uno", "dos", "</s>"]
    assert [len(ids) for ids in found["input_ids"]] == [3, 3, 2]


@pytest.mark.parametrize(("row", "column"), [(("one " * 20, "uno"), "source"), (("one", "uno " * 9), "target")])
def test_without_truncation_it_is_refused(tokenizer: Any, row: tuple[str, str], column: str) -> None:
    with pytest.raises(RowTooLong) as refused:
        encode(spec(tokenization={"truncation": False}), tokenizer, row)
    assert refused.value.failure.details == {"row": 1, "column": column}


@pytest.mark.parametrize(("padding", "shapes"), [("longest", ((2, 3), (2, 4))), ("max_length", ((2, 16), (2, 6)))])
def test_padding_is_on_the_right_and_not_learned(tokenizer: Any, padding: str, shapes: Any) -> None:
    collate = TASK.collate(tokenizer, spec(tokenization={"padding": padding}), 16)
    batch = collate([{"input_ids": [5, 6, 1], "labels": [11, 1]}, {"input_ids": [5, 1], "labels": [11, 12, 13, 1]}])
    assert (batch.inputs["input_ids"].shape, batch.targets["labels"].shape) == shapes
    assert batch.inputs["input_ids"][1].tolist()[:3] == [5, 1, 0]
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [3, 2]
    assert batch.targets["labels"][0].tolist()[:3] == [11, 1, -100]
    assert batch.num_items == 6


def save(model: Any, folder: Path, translators: Path) -> Path:
    load_tokenizer(translators / "t5").save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def built(kind: str, folder: Path, translators: Path) -> Path:
    """A folder of each of the ways to make what the decoder reads."""
    torch.manual_seed(1)
    common = {**SIZES, "vocab_size": 20, "pad_token_id": 0, "eos_token_id": 1}
    match kind:
        case "marian":
            model = MarianMTModel(MarianConfig(**common, decoder_start_token_id=0))
        case "m2m_100":
            model = M2M100ForConditionalGeneration(M2M100Config(**common, decoder_start_token_id=1))
        case "mbart":
            model = MBartForConditionalGeneration(MBartConfig(**common))
        case _:
            return translators / kind
    return save(model, folder, translators)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", ["t5", "bart", "marian", "m2m_100", "mbart"])
def test_the_loss_is_the_librarys_own(kind: str, rows: int, translators: Path, tmp_path: Path) -> None:
    folder = built(kind, tmp_path / kind, translators)
    asked, tokenizer = spec(), load_tokenizer(folder)
    model, head = TASK.build_model(folder, asked, [])
    assert head == ()
    model.eval()
    found = encode(asked, tokenizer, *[("one two", "uno dos"), ("six", "seis"), ("two", "dos")][:rows])
    features = [{name: found[name][place] for name in ("input_ids", "labels")} for place in range(rows)]
    batch = TASK.collate(tokenizer, asked, 16)(features)
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    expected = plain(**batch.inputs, labels=batch.targets["labels"]).loss
    result = TASK.training_step(asked, [], None)(model, batch)
    assert torch.allclose(result.loss_sum / result.num_items, expected)


def test_label_smoothing_is_torchs(translators: Path) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [3, -100, -100]])
    expected = torch.nn.functional.cross_entropy(logits.view(-1, 7), labels.view(-1), label_smoothing=0.2)
    assert torch.allclose(CrossEntropy(label_smoothing=0.2)(logits, labels) / 3, expected)


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_the_loss_of_a_step_is_the_mean_over_its_tokens_however_it_is_divided(train: Train, engine: str) -> None:
    quiet = {"id": "local:t5", "config": {"dropout_rate": 0.0}}
    options = {"engine": engine, "max_steps": 3, "learning_rate": 1e-3}
    whole = train(spec(model=quiet, training={**options, "batch_size": 6}), "whole")
    parts = train(spec(model=quiet, training={**options, "batch_size": 2, "gradient_accumulation": 3}), "parts")
    assert whole.result["status"] == "succeeded", whole.result
    assert parts.series("loss") == pytest.approx(whole.series("loss"), rel=1e-4)


@pytest.mark.parametrize("method", [{"type": "full"}, LORA, {"type": "freeze", "layers": 1}], ids=lambda m: m["type"])
@pytest.mark.parametrize(("kind", "engine"), [("t5", "trainer"), ("bart", "pytorch")])
def test_it_learns_and_the_folder_writes_what_was_evaluated(
    train: Train, kind: str, engine: str, method: dict[str, Any]
) -> None:
    task = {"problem": "translation", "prefix": "translate: ", "num_beams": 2}
    done = train(
        spec(
            task,
            model={"id": f"local:{kind}"},
            training={"engine": engine, "method": method, "batch_size": 12, "max_steps": 150},
            evaluation={"at_start": True, "strategy": "steps", "every": 50},
        )
    )
    assert done.result["status"] == "succeeded", done.result
    losses = list(done.series("loss").values())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert max(done.series("eval_chrf").values()) > done.series("eval_chrf")[0]
    assert min(done.series("eval_perplexity").values()) < done.series("eval_perplexity")[0]
    folder = done.out_dir / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    for line in predictions(done):
        inputs = tokenizer(f"translate: {line['source']}", return_tensors="pt")
        written = tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)
        assert written == line["predicted"]
    right = sum(line["target"] == line["predicted"] for line in predictions(done)) / 12
    assert done.result["metrics"]["eval_exact_match"] == pytest.approx(right)
    if method["type"] == "full":
        assert right > 0.7


def test_an_adapter_alone_goes_onto_its_base(train: Train, translators: Path) -> None:
    done = train(spec(training={"method": {**LORA, "export": "adapter"}}))
    assert done.result["status"] == "succeeded", done.result
    folder = done.out_dir / "model"
    model: Any = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(translators / "t5"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for line in predictions(done):
        written = model.generate(**tokenizer(line["source"], return_tensors="pt"), max_new_tokens=6)
        assert tokenizer.decode(written[0], skip_special_tokens=True) == line["predicted"]


@pytest.mark.parametrize("method", [{"type": "full"}, {**LORA, "dropout": 0.1}], ids=lambda m: m["type"])
@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_resuming_ends_where_an_undisturbed_run_does(train: Train, engine: str, method: dict[str, Any]) -> None:
    asked = spec(
        training={"engine": engine, "method": method, "epochs": 3, "gradient_accumulation": 2},
        checkpoints={"strategy": "steps", "every": 2},
    )
    whole = train(asked, "whole")
    stopped = train(asked, "stopped", stop_when=lambda record: record.get("step") == 4)
    assert stopped.result["status"] == "stopped"
    checkpoint = newest_valid(stopped.out_dir / "checkpoints")
    again = train(asked, "again", resume_from=checkpoint, resolved=stopped.resolved)
    assert again.result["status"] == "succeeded", again.result
    assert again.weights == whole.weights
    assert again.result["metrics"] == whole.result["metrics"]


@pytest.mark.parametrize("engine", ["trainer", "pytorch"])
def test_how_often_is_evaluated_changes_nothing_of_what_is_learned(train: Train, engine: str) -> None:
    options = {"engine": engine, "max_steps": 8}
    seldom = train(spec(training=options, evaluation={"best_by": "loss"}, data={"eval": None}), "seldom")
    often = train(
        spec({"num_beams": 3}, training=options, evaluation={"strategy": "steps", "every": 1, "at_start": True}),
        "often",
    )
    assert often.series("loss") == seldom.series("loss")


def test_generation_draws_no_random_numbers_and_leaves_the_model_as_it_was(plan: MakePlan) -> None:
    ready = plan(spec({"num_beams": 2}))
    model = load_trainable(ready)
    settings = model.generation_config.to_dict()
    before = torch.get_rng_state()
    first = gather(forward(model, ready, "eval", training_step(ready)), 12)
    assert torch.equal(torch.get_rng_state(), before)
    assert gather(forward(model, ready, "eval", training_step(ready)), 12) == first
    assert model.generation_config.to_dict() == settings


@pytest.mark.parametrize(
    ("evaluation", "generates"),
    [
        ({"metrics": ["perplexity"], "predictions": False}, False),
        ({"metrics": ["perplexity"], "predictions": True}, True),
        ({"metrics": ["perplexity", "bleu"], "predictions": False}, True),
    ],
)
def test_nothing_is_generated_that_nobody_reads(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch, evaluation: dict[str, Any], generates: bool
) -> None:
    ready = plan(spec(evaluation=evaluation))
    model = load_trainable(ready)
    calls: list[Any] = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: calls.append(given) or generate(**given))
    found = gather(forward(model, ready, "eval", training_step(ready)), 12)
    assert bool(calls) is generates
    evaluated = TASK.eval_prediction(split_of(ready, "eval"), found.each)
    total, tokens = (sum(written[name] for written in evaluated.predictions) for name in ("loss", "tokens"))
    assert tokens == sum(len(labels) for labels in ready.encoded["eval"]["labels"])
    assert total / tokens == pytest.approx(found.loss, rel=1e-5)


def test_settings_of_an_earlier_task_do_not_shape_what_is_written(translators: Path, tmp_path: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(translators / "bart")
    model.generation_config = GenerationConfig(
        min_length=20, max_length=30, num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3, decoder_start_token_id=1,
        forced_bos_token_id=3, eos_token_id=1, bos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    folder = save(model, tmp_path / "summarizer", translators)
    tuned, _ = TASK.build_model(folder, spec(), [])
    found = tuned.generation_config
    assert (found.min_length or 0, found.num_beams, found.max_new_tokens) == (0, 1, 6)
    assert not found.no_repeat_ngram_size
    assert (found.forced_bos_token_id, found.decoder_start_token_id) == (3, 1)


def multilingual(kind: type, folder: Path) -> Path:
    torch.manual_seed(1)
    tokenizer = kind()
    common = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind is MBartTokenizer:
        model: Any = MBartForConditionalGeneration(MBartConfig(**common))
    else:
        model = M2M100ForConditionalGeneration(M2M100Config(**common, decoder_start_token_id=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "languages"), [(NllbTokenizer, ("eng_Latn", "ron_Latn")), (MBartTokenizer, ("en_XX", "ro_RO"))]
)
def test_languages_are_passed_to_tokenizer_and_generation(
    translators: Path, train: Train, kind: type, languages: tuple[str, str]
) -> None:
    folder = multilingual(kind, translators / kind.__name__)
    task = {"problem": "translation", "source_language": languages[0], "target_language": languages[1]}
    asked = spec(task, model={"id": f"local:{kind.__name__}"}, training={"max_steps": 2})
    tokenizer = load_tokenizer(folder)
    TASK.check(asked, tokenizer, load_config(folder, asked))
    found = encode(asked, tokenizer, ("one", "uno"))
    source, target = tokenizer.convert_tokens_to_ids(list(languages))
    assert source in found["input_ids"][0]
    assert target not in found["input_ids"][0]
    assert target in found["labels"][0]
    done = train(asked)
    assert done.result["status"] == "succeeded", done.result
    published = AutoTokenizer.from_pretrained(done.out_dir / "model")
    assert (published.src_lang, published.tgt_lang) == languages
    model = AutoModelForSeq2SeqLM.from_pretrained(done.out_dir / "model")
    if kind is NllbTokenizer:
        assert model.generation_config.forced_bos_token_id == target
        written = model.generate(**published("one", return_tensors="pt"))
        assert written[0, :2].tolist() == [2, target]
    else:
        assert model.generation_config.forced_bos_token_id is None
        assert model.generate(**published("one", return_tensors="pt"))[0, 0] == target


def test_languages_that_do_not_fit_are_refused(translators: Path) -> None:
    folder = multilingual(NllbTokenizer, translators / "nllb")
    tokenizer, config = load_tokenizer(folder), load_config(folder, spec())
    with pytest.raises(ModelConfigInvalid, match="several languages"):
        TASK.check(spec(), tokenizer, config)
    wrong = spec({"source_language": "eng_Latn", "target_language": "ron_Latin"})
    with pytest.raises(ModelConfigInvalid, match="no language 'ron_Latin'") as refused:
        TASK.check(wrong, tokenizer, config)
    assert "ron_Latn" in refused.value.failure.hint
    with pytest.raises(ModelConfigInvalid, match="knows no languages"):
        TASK.check(wrong, load_tokenizer(translators / "t5"), load_config(translators / "t5", spec()))


def test_models_that_cannot_do_it_are_refused(translators: Path) -> None:
    tokenizer = load_tokenizer(translators / "t5")
    with pytest.raises(ModelRefused, match="a bert model has no encoder and decoder"):
        TASK.check(spec(), tokenizer, load_config(translators / "tiny", spec()))
    with pytest.raises(ModelConfigInvalid, match="writes 32 tokens at most"):
        TASK.check(spec({"max_target_length": 33}), tokenizer, load_config(translators / "bart", spec()))
    config = load_config(translators / "bart", spec())
    config.decoder_start_token_id = None
    with pytest.raises(ModelConfigInvalid, match="what its decoder starts with"):
        TASK.check(spec(), tokenizer, config)


def test_answers_become_predictions_and_lines(plan: MakePlan) -> None:
    ready = plan(spec(data={"eval": {"rows": [{"source": "one two", "target": "uno  dos"}]}}))
    split, answers = split_of(ready, "eval"), [("uno dos", 3.0, 3)]
    evaluated = TASK.eval_prediction(split, answers)
    assert evaluated.predictions == [{"text": "uno dos", "loss": 3.0, "tokens": 3}]
    assert evaluated.references == ["uno  dos"]
    assert list(TASK.describe(split, answers, evaluated)) == [
        {"row": 1, "source": "one two", "target": "uno  dos", "predicted": "uno dos"}
    ]
    assert TASK.report(split, evaluated) is None


def test_the_batches_of_training_hold_nothing_that_a_model_does_not_take(plan: MakePlan) -> None:
    ready = plan(spec())
    model = load_published(ready, ready.initial.folder).train()
    batch = TASK.collate(ready.tokenizer, ready.spec, 16)([learned(ready)[0], learned(ready)[1]])
    loss = training_step(ready)(model, batch).loss_sum
    loss.backward()
    assert math.isfinite(loss.item())
    assert model.shared.weight.grad.abs().sum() > 0
