"""A text is written from another: a summary, a translation, an answer.

{"document": "The council met on …", "summary": "Council meets", "_row": 3}
data.columns: {"source": "document", "target": "summary"}
encoded: {"input_ids": [21603, 10, 37, …, 1], "labels": [2063, 14205, 1]}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from app.specs import JobSpec
from app.specs.tasks.seq2seq import Seq2Seq
from worker.training.errors import ModelConfigInvalid, ModelRefused, nearest
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.text import READ_FROM_TEXT, WRITTEN
from worker.training.evaluation.metrics.tokens import token_answers
from worker.training.inputs.table import Row
from worker.training.loop.losses import IGNORE_INDEX, CrossEntropy
from worker.training.models.pretrained import build, load, load_tokenizer
from worker.training.tasks.protocol import (
    Batch,
    Collate,
    EvalPrediction,
    Features,
    Pass,
    Split,
    StepResult,
    Task,
    TrainingStep,
)
from worker.training.tokens.padding import attention_mask, pad_right
from worker.training.tokens.truncation import check_lengths, place_of

KEPT = (
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
)
"""What of a pretrained model's settings for generation belongs to its vocabulary. The others, such as a shortest length,
belong to the texts that it was tuned for before."""
STARTS_OTHERWISE = ("mbart", "plbart", "t5gemma", "t5gemma2")
"""Model types that know without a setting what their decoder starts with: mBART's with the target's last token, the language."""


class Seq2SeqTask(Task):
    """An encoder-decoder with its own language-modelling head."""

    metrics: ClassVar[Metrics] = WRITTEN
    pipeline: ClassVar[str] = "text2text-generation"
    model_class: ClassVar[Any] = AutoModelForSeq2SeqLM
    peft_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Tell the tokenizer its languages.

        Raises ModelRefused for a model of another kind, ModelConfigInvalid for languages or lengths that it does not know.
        """
        if not config.is_encoder_decoder:
            raise ModelRefused(
                f"a {config.model_type} model has no encoder and decoder to write one text from another",
                "Use a model such as T5, BART or NLLB; for text generators there is the task causal-lm.",
            )
        if config.decoder_start_token_id is None and config.model_type not in STARTS_OTHERWISE:
            raise ModelConfigInvalid(
                "the model's configuration does not say what its decoder starts with",
                "Set model.config.decoder_start_token_id.",
            )
        asked = _spec(spec)
        longest = getattr(config, "max_position_embeddings", None)
        if isinstance(longest, int) and asked.max_target_length > longest:
            raise ModelConfigInvalid(
                f"task.max_target_length is {asked.max_target_length}, and the model writes {longest} tokens at most",
                f"Set task.max_target_length to {longest} or less.",
            )
        _speak(tokenizer, asked)

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained model, which will generate with the settings of the evaluation. Raises ModelRefused if its head is missing."""
        model, new = build(AutoModelForSeq2SeqLM, folder, spec, {}, **kind)
        missing = [name for name in new if name in dict(model.named_parameters())]
        if missing:
            raise ModelRefused(
                f"the model cannot write text: its weights have no {', '.join(missing[:3])}",
                "Use a model that was trained to write, such as T5, BART or NLLB.",
            )
        _set_generation(model, _spec(spec), load_tokenizer(folder))
        return model, ()

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A model that was saved before."""
        return load(AutoModelForSeq2SeqLM, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids` of the sources, `labels` of the targets, and `truncated` where either was."""
        asked, columns, truncation = _spec(spec), spec.columns, spec.tokenization.truncation
        _speak(tokenizer, asked)
        sources = tokenizer(
            [asked.prefix + row[columns["source"]] for row in rows],
            truncation=truncation,
            max_length=max_length if truncation else None,
            verbose=False,
        )
        targets = tokenizer(
            text_target=[row[columns["target"]] for row in rows],
            truncation=truncation,
            max_length=asked.max_target_length if truncation else None,
            verbose=False,
        )
        if not truncation:
            check_lengths(rows, sources["input_ids"], max_length, columns["source"])
            check_lengths(rows, targets["input_ids"], asked.max_target_length, columns["target"])
        return {
            "input_ids": sources["input_ids"],
            "labels": targets["input_ids"],
            "truncated": [one or other for one, other in zip(_truncated(sources), _truncated(targets), strict=True)],
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad on the right, to the longest of the batch or to the limits."""
        pad, always = tokenizer.pad_token_id, spec.tokenization.padding == "max_length"
        limits = (max_length, _spec(spec).max_target_length)

        def collate(rows: list[Features]) -> Batch:
            sources, targets = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
            width, length = limits if always else (max(map(len, sources)), max(map(len, targets)))
            labels = pad_right(targets, length, IGNORE_INDEX)
            inputs = {"input_ids": pad_right(sources, width, pad), "attention_mask": attention_mask(sources, width)}
            return Batch(inputs, {"labels": labels}, num_items=int((labels != IGNORE_INDEX).sum()))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy over the tokens of the targets, with the spec's label smoothing."""
        loss = CrossEntropy(label_smoothing=spec.training.label_smoothing)

        def step(model: Any, batch: Batch) -> StepResult:
            tokens = batch.targets["labels"]
            # Without labels, because the loss is ours, a model does not make its decoder's inputs.
            outputs = model(**batch.inputs, decoder_input_ids=_decoder_inputs(model, tokens))
            return StepResult(loss(outputs["logits"], tokens), batch.num_items, outputs)

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """For each row the text that is written, and loss and count of its target's tokens; only what is asked for."""
        rows = len(done.features)
        texts, measured = [""] * rows, [(0.0, 0, 0)] * rows
        if spec.evaluation.predictions or READ_FROM_TEXT & set(spec.metrics):
            texts = _written(done, tokenizer)
        if "perplexity" in spec.metrics:
            measured = token_answers(done.outputs["logits"], done.batch.targets["labels"])
        return [(text, loss, tokens) for text, (loss, _, tokens) in zip(texts, measured, strict=True)]

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """The generated texts, and the targets of the rows without truncation."""
        return EvalPrediction(
            [{"text": text, "loss": loss, "tokens": tokens} for text, loss, tokens in answers],
            split.rows[split.spec.columns["target"]],
        )

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, source, target, and what was written."""
        columns = split.spec.columns
        for row, (text, *_) in zip(split.rows, answers, strict=True):
            texts = {role: row[columns[role]] for role in ("source", "target")}
            yield {**place_of(row), **texts, "predicted": text}

    def use(self, spec: JobSpec) -> str:
        """Tokenizer and model: transformers has no pipeline for these any more."""
        asked = _spec(spec)
        return (
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
            'model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER")\n'
            f'inputs = tokenizer({asked.prefix + "…"!r}, return_tensors="pt")\n'
            f"written = model.generate(**inputs, max_new_tokens={asked.max_target_length}, num_beams={asked.num_beams})\n"
            "print(tokenizer.decode(written[0], skip_special_tokens=True))"
        )


def _spec(spec: JobSpec) -> Seq2Seq:
    return cast("Seq2Seq", spec.task)


def _speak(tokenizer: Any, asked: Seq2Seq) -> None:
    """Set the languages of a multilingual tokenizer. Raises ModelConfigInvalid."""
    is_multilingual = hasattr(tokenizer, "src_lang")
    if asked.source_language is None or asked.target_language is None:
        if is_multilingual and tokenizer.tgt_lang is None:
            raise ModelConfigInvalid(
                "the model is of several languages", "Set task.source_language and task.target_language."
            )
        return
    if not is_multilingual:
        raise ModelConfigInvalid(
            "the model's tokenizer knows no languages",
            "Leave task.source_language and task.target_language out; T5 models take them in task.prefix.",
        )
    for language in (asked.source_language, asked.target_language):
        _language_id(tokenizer, language)
    tokenizer.src_lang, tokenizer.tgt_lang = asked.source_language, asked.target_language


def _language_id(tokenizer: Any, language: str) -> int:
    # The tokens of M2M100 are not its codes.
    token = getattr(tokenizer, "lang_code_to_token", {}).get(language, language)
    if token not in tokenizer.all_special_tokens:
        known = [name for name in tokenizer.all_special_tokens if "<" not in name]
        raise ModelConfigInvalid(
            f"the model's tokenizer knows no language '{language}'",
            f"Its codes are such as {', '.join(known[:5])}.{nearest(language, known)}",
        )
    return cast("int", tokenizer.convert_tokens_to_ids(token))


def _set_generation(model: Any, asked: Seq2Seq, tokenizer: Any) -> None:
    before = model.generation_config.to_dict()
    kept = {name: before[name] for name in KEPT if before.get(name) is not None}
    start = model.config.decoder_start_token_id
    settings = kept | ({} if start is None else {"decoder_start_token_id": start})
    if asked.target_language is not None:
        _speak(tokenizer, asked)
        language = _language_id(tokenizer, asked.target_language)
        # Most write the language first, after what the decoder starts with; mBART's decoder starts with it.
        is_first = tokenizer(text_target="")["input_ids"][0] == language
        settings["forced_bos_token_id" if is_first else "decoder_start_token_id"] = language
    model.generation_config = GenerationConfig(
        **settings,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=asked.max_target_length,
        num_beams=asked.num_beams,
        do_sample=False,
    )


def _decoder_inputs(model: Any, targets: torch.Tensor) -> torch.Tensor:
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is not None:
        return shift(targets)
    # M2M100, NLLB and Blenderbot shift in the same way, and offer no function for it.
    config = model.config
    shifted = targets.masked_fill(targets == IGNORE_INDEX, config.pad_token_id).roll(1, dims=1)
    shifted[:, 0] = config.decoder_start_token_id
    return shifted


def _truncated(encoded: Any) -> list[bool]:
    return [bool(encoding.overflowing) for encoding in encoded.encodings or ()] or [False] * len(encoded["input_ids"])


def _written(done: Pass, tokenizer: Any) -> list[str]:
    # What the encoder made of the sources is there already.
    encoded = BaseModelOutput(last_hidden_state=done.outputs["encoder_last_hidden_state"])
    tokens = done.model.generate(encoder_outputs=encoded, attention_mask=done.batch.inputs["attention_mask"])
    return cast("list[str]", tokenizer.batch_decode(tokens, skip_special_tokens=True))


TASK = Seq2SeqTask()
