"""A text generator learns to answer: from conversations, or from prompts and their completions.

{"messages": [{"role": "user", "content": "Dark screen."}, {"role": "assistant", "content": "Is it plugged in?"}], "_row": 3}
data.columns: {"messages": "messages"}
encoded: {"input_ids": [1, 4093, …, 2], "labels": [-100, -100, …, 2]}    only what the assistant says is learned
packed:  {"input_ids": [1, 4093, …, 2, 1, 17, …], "labels": […], "position_ids": [0, 1, …, 9, 0, 1, …]}
"""

from collections.abc import Iterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from transformers import AutoModelForCausalLM

from app.specs import JobSpec
from app.specs.tasks.causal_lm import CausalLM
from app.specs.tasks.conversations import messages
from worker.training.errors import ChatTemplateMissing, ModelConfigInvalid, ModelRefused
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.tokens import TOKENS, token_answers
from worker.training.inputs.table import Row
from worker.training.loop.losses import IGNORE_INDEX, CrossEntropy
from worker.training.models.packed_attention import BOUNDARIES, boundaries_of
from worker.training.models.pretrained import build, load
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
from worker.training.tokens.conversations import Stretch, write
from worker.training.tokens.packing import packed
from worker.training.tokens.padding import attention_mask, pad_right
from worker.training.tokens.truncation import check_lengths, place_of

CLOSE = 1e-3
"""How far logits of one row may be apart by another order of adding up."""
CLOSED = {"add_special_tokens": False}
"""A chat template writes the special tokens itself."""


class CausalLMTask(Task):
    """The language-modelling head of the model itself, and cross entropy over what is to be said."""

    metrics: ClassVar[Metrics] = TOKENS
    pipeline: ClassVar[str] = "text-generation"
    model_class: ClassVar[Any] = AutoModelForCausalLM
    peft_type: ClassVar[str | None] = "CAUSAL_LM"

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Raises ModelRefused for a tokenizer that cannot give the places of its tokens, ChatTemplateMissing without one."""
        if not tokenizer.is_fast:
            raise ModelRefused(
                "its tokenizer does not give the places of its tokens in the text (it is not a fast tokenizer)"
            )
        if _spec(spec).format == "messages" and not tokenizer.chat_template:
            raise ChatTemplateMissing("the model's tokenizer has no chat template to write conversations with")

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained generator. Raises ModelRefused where its head is missing."""
        model, new = build(AutoModelForCausalLM, folder, spec, {}, **kind)
        if new:
            raise ModelRefused(
                f"the model cannot generate text: its weights have no {', '.join(new[:3])}",
                "Use a model that was trained to generate, such as a Llama, Qwen or SmolLM.",
            )
        if _spec(spec).packing and not keeps_rows_apart(model):
            raise ModelConfigInvalid(
                f"packed rows would see each other in a {model.config.model_type} model", "Set task.packing to false."
            )
        return model, ()

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A generator that was saved before."""
        return load(AutoModelForCausalLM, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`input_ids`, and `labels` of the learned tokens; with packing, sequences of several rows of train."""
        asked, columns, truncation = _spec(spec), spec.columns, spec.tokenization.truncation
        if asked.format == "messages":
            written = [write(messages(row[columns["messages"]]) or [], tokenizer) for row in rows]
        else:
            written = [_pair(row[columns["prompt"]], row[columns["completion"]], tokenizer) for row in rows]
        options = CLOSED if asked.format == "messages" else {}
        encoded = tokenizer([text for text, _ in written], return_offsets_mapping=True, verbose=False, **options)
        ids = cast("list[list[int]]", encoded["input_ids"])
        if not truncation:
            check_lengths(rows, ids, max_length, columns[spec.task.roles[-1]])
        learned = [
            own if asked.loss_on == "all" else _learned(own, offsets, stretches)
            for own, offsets, (_, stretches) in zip(ids, encoded["offset_mapping"], written, strict=True)
        ]
        truncated = [len(own) > max_length for own in ids]
        sequences = {"input_ids": [own[:max_length] for own in ids], "labels": [own[:max_length] for own in learned]}
        return (packed(sequences, max_length) if asked.packing and split == "train" else sequences) | {
            "truncated": truncated
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """Pad on the right, to the longest of the batch or to `max_length`.

        `kept` has the places whose next token is learned in any row, and `labels` (rows, kept) these next tokens.
        """
        pad, always = tokenizer.pad_token_id, spec.tokenization.padding == "max_length"

        def collate(rows: list[Features]) -> Batch:
            width = max_length if always else max(len(row["input_ids"]) for row in rows)
            tokens, labels = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
            targets = pad_right(labels, width, IGNORE_INDEX)
            apart: dict[str, torch.Tensor] = {}
            inputs = {"input_ids": pad_right(tokens, width, pad)}
            if "position_ids" in rows[0]:
                # Without a mask, models recognize packed rows by positions that restart at 0. Padding is one more row.
                positions = [row["position_ids"] for row in rows]
                inputs["position_ids"] = pad_right(positions, width, 0)
                apart = {BOUNDARIES: boundaries_of(positions, width)}
            else:
                inputs["attention_mask"] = attention_mask(tokens, width)
            # The first token of a sequence follows nothing.
            following = targets[:, 1:]
            learned = following != IGNORE_INDEX
            kept = learned.any(0).nonzero()[:, 0]
            return Batch(inputs, {"kept": kept, "labels": following[:, kept], **apart}, num_items=int(learned.sum()))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy of the next token, over the learned ones."""
        loss = CrossEntropy(label_smoothing=spec.training.label_smoothing)

        def step(model: Any, batch: Batch) -> StepResult:
            logits = _kept_logits(model, batch)
            return StepResult(loss(logits, batch.targets["labels"]), batch.num_items, {"logits": logits})

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """Loss, right guesses and count of the learned tokens of each row."""
        return token_answers(done.outputs["logits"], done.batch.targets["labels"])

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Losses and right guesses; the references are how many tokens they are of."""
        return EvalPrediction(
            [{"loss": loss, "correct": correct} for loss, correct, _ in answers], [count for *_, count in answers]
        )

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, how many tokens were to be said, the mean loss over them, and the share that was guessed right."""
        for row, (loss, correct, count) in zip(split.rows, answers, strict=True):
            tokens = max(1, count)
            yield {
                **place_of(row),
                "tokens": count,
                "loss": round(loss / tokens, 6),
                "token_accuracy": round(correct / tokens, 6),
            }

    def use(self, spec: JobSpec) -> str:
        """The pipeline: it knows the chat template."""
        asked = '[{"role": "user", "content": "…"}]' if _spec(spec).format == "messages" else '"…"'
        return (
            "from transformers import pipeline\n\n"
            'generate = pipeline("text-generation", model="FOLDER")\n'
            f'print(generate({asked}, max_new_tokens=100)[0]["generated_text"])'
        )


def _kept_logits(model: Any, batch: Batch) -> Any:
    """Logits (rows, kept, vocabulary). The others are not computed where the model can leave them out."""
    kept = batch.targets["kept"]
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = signature(type(whole).forward).parameters
    inputs: dict[str, Any] = dict(batch.inputs)
    if BOUNDARIES in batch.targets:
        # Models do not recognize packed rows by their positions where they fill a cache.
        inputs["use_cache"] = False
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
            inputs[BOUNDARIES] = batch.targets[BOUNDARIES]
    if "logits_to_keep" in known:
        return model(**inputs, logits_to_keep=kept)["logits"]
    return model(**inputs)["logits"][:, kept]


def keeps_rows_apart(model: Any) -> bool:
    """Whether the model says of a row that is packed behind another what it says of the row alone.

    Those of transformers that make their masks of positions do; others (BLOOM, Falcon, Mamba, …) let rows run together.
    """
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=model.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = model(input_ids=ids[:, 4:], use_cache=False).logits
        try:
            behind = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 4:]
        except TypeError:
            # It takes no positions.
            return False
        finally:
            model.train(was_training)
    return torch.allclose(alone.float(), behind.float(), rtol=CLOSE, atol=CLOSE)


def _spec(spec: JobSpec) -> CausalLM:
    return cast("CausalLM", spec.task)


def _pair(prompt: str, completion: str, tokenizer: Any) -> tuple[str, list[Stretch]]:
    whole = f"{prompt}{completion}{tokenizer.eos_token or ''}"
    return whole, [(len(prompt), len(whole))]


def _learned(ids: list[int], offsets: list[tuple[int, int]], stretches: list[Stretch]) -> list[int]:
    # A token at the seam counts as learned where it ends beyond it.
    return [
        token
        if any(begin < end and begin < last and first < end and last > first for begin, end in stretches)
        else IGNORE_INDEX
        for token, (first, last) in zip(ids, offsets, strict=True)
    ]


TASK = CausalLMTask()
