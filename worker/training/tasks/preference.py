"""A text generator learns to prefer the answers that people prefer.

{"prompt": "Dark screen.", "chosen": "Is it plugged in?", "rejected": "Not my problem.", "_row": 3}
data.columns: {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
encoded: {"prompt_input_ids": [1, 4093], "chosen_input_ids": [7, …, 2], "rejected_input_ids": [11, …, 2],
          "reference": [-21.5, -19.0]}    the log probabilities of both answers before training
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from transformers import AutoModelForCausalLM

from app.specs import JobSpec
from app.specs.tasks.conversations import is_conversation, messages
from app.specs.tasks.preference import Preference
from worker.training.errors import ChatTemplateMissing, ModelRefused
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.preferences import PREFERENCES
from worker.training.inputs.table import Row
from worker.training.loop.losses import IGNORE_INDEX
from worker.training.models.pretrained import build, load
from worker.training.tasks.protocol import (
    REFERENCE,
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
from worker.training.tokens.chat_template import render
from worker.training.tokens.conversations import shared_prefix
from worker.training.tokens.padding import attention_mask, pad_right
from worker.training.tokens.truncation import check_lengths, place_of

ANSWERS = ("chosen", "rejected")


class PreferenceTask(Task):
    """Direct preference optimization (DPO: Rafailov et al., 2023)."""

    metrics: ClassVar[Metrics] = PREFERENCES
    pipeline: ClassVar[str] = "text-generation"
    model_class: ClassVar[Any] = AutoModelForCausalLM
    peft_type: ClassVar[str | None] = "CAUSAL_LM"
    needs_reference_model: ClassVar[bool] = True

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained generator. Raises ModelRefused where its head is missing."""
        model, new = build(AutoModelForCausalLM, folder, spec, {}, **kind)
        if new:
            raise ModelRefused(
                f"the model cannot generate text: its weights have no {', '.join(new[:3])}",
                "Use a model that was trained to generate, and best one that was tuned on answers of this kind before.",
            )
        return model, ()

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """A generator that was saved before."""
        return load(AutoModelForCausalLM, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """Prompt and answers apart. Where both together are too long, the prompt loses its beginning first."""
        columns, found = spec.columns, [_tokens(row, spec.columns, tokenizer) for row in rows]
        if not spec.tokenization.truncation:
            longest = [prompt + max(answers, key=len) for prompt, *answers in found]
            check_lengths(rows, longest, max_length, columns["chosen"])
        truncated = [len(prompt) + max(map(len, answers)) > max_length for prompt, *answers in found]
        fitting = [_fitted(*parts, size=max_length) for parts in found]
        names = [f"{part}_input_ids" for part in ("prompt", *ANSWERS)]
        return {
            **{name: [parts[place] for parts in fitting] for place, name in enumerate(names)},
            "truncated": truncated,
        }

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """The chosen sequences, then the rejected ones; `answers` are the tokens that count, `reference` (2, rows)."""
        pad = tokenizer.pad_token_id

        def collate(rows: list[Features]) -> Batch:
            pairs = [(row["prompt_input_ids"], row[f"{part}_input_ids"]) for part in ANSWERS for row in rows]
            sequences = [prompt + answer for prompt, answer in pairs]
            learned = [[IGNORE_INDEX] * len(prompt) + answer for prompt, answer in pairs]
            width = max(map(len, sequences))
            targets = {"answers": pad_right(learned, width, IGNORE_INDEX)}
            if REFERENCE in rows[0]:
                targets[REFERENCE] = torch.tensor([row[REFERENCE] for row in rows]).T
            inputs = {"input_ids": pad_right(sequences, width, pad), "attention_mask": attention_mask(sequences, width)}
            return Batch(inputs, targets, num_items=len(rows))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """The loss of DPO, of its hinge form (Zhao et al., 2023) or of IPO (Azar et al., 2023)."""
        asked = cast("Preference", spec.task)

        def step(model: Any, batch: Batch) -> StepResult:
            # Training needs no cache of keys and values.
            outputs = model(**batch.inputs, use_cache=False)
            log_ratios, lengths = _log_ratios(outputs["logits"], batch)
            return StepResult(_losses(log_ratios, lengths, asked).sum(), batch.num_items, outputs)

        return step

    def reference(self, model: Any, batch: Batch) -> list[Any]:
        """The log probabilities of both answers to each row."""
        found, _ = log_probabilities(model(**batch.inputs)["logits"], batch.targets["answers"])
        return cast("list[Any]", found.T.tolist())

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The rewards of both answers to each row."""
        log_ratios, _ = _log_ratios(done.outputs["logits"], done.batch)
        return cast("list[Any]", (cast("Preference", spec.task).beta * log_ratios).T.tolist())

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """Rewards of the chosen answers, and of the rejected."""
        return EvalPrediction([chosen for chosen, _ in answers], [rejected for _, rejected in answers])

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, texts, and the reward of each answer."""
        columns = split.spec.columns
        for row, (chosen, rejected) in zip(split.rows, answers, strict=True):
            texts = {part: row[columns[part]] for part in ("prompt", *ANSWERS)}
            yield {**place_of(row), **texts, "reward_chosen": round(chosen, 6), "reward_rejected": round(rejected, 6)}

    def use(self, spec: JobSpec) -> str:
        """The pipeline: it knows the chat template, where there is one."""
        return (
            "from transformers import pipeline\n\n"
            'generate = pipeline("text-generation", model="FOLDER")\n'
            'print(generate("…", max_new_tokens=100)[0]["generated_text"])'
        )


def log_probabilities(logits: torch.Tensor, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The log probability of each answer, and its number of tokens; both (2, rows).

    `logits` (2 * rows, tokens, vocabulary) are of the chosen sequences, then the rejected ones. `answers` (2 * rows,
    tokens) are the tokens of the answers, and IGNORE_INDEX elsewhere.
    """
    wanted = answers[:, 1:]
    learned = wanted != IGNORE_INDEX
    chosen = logits[:, :-1][learned].float()
    each = torch.zeros(wanted.shape, device=logits.device)
    each[learned] = -torch.nn.functional.cross_entropy(chosen, wanted[learned], reduction="none")
    return each.sum(dim=-1).view(2, -1), learned.sum(dim=-1).view(2, -1)


def _log_ratios(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    found, lengths = log_probabilities(logits, batch.targets["answers"])
    return found - batch.targets[REFERENCE], lengths


def _losses(log_ratios: torch.Tensor, lengths: torch.Tensor, asked: Preference) -> torch.Tensor:
    margin = log_ratios[0] - log_ratios[1]
    match asked.loss:
        case "sigmoid":
            return -torch.nn.functional.logsigmoid(asked.beta * margin)
        case "hinge":
            return torch.relu(1 - asked.beta * margin)
        case "ipo":
            mean = log_ratios / lengths.clamp(min=1)
            return (mean[0] - mean[1] - 1 / (2 * asked.beta)) ** 2


def _tokens(row: Row, columns: dict[str, str], tokenizer: Any) -> tuple[list[int], ...]:
    prompt, chosen, rejected = (row[columns[part]] for part in ("prompt", *ANSWERS))
    conversation = messages(prompt) if is_conversation(prompt) else None
    if conversation is None:
        end = tokenizer.eos_token or ""
        asked: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
        return asked, *(
            _after(asked, f"{prompt}{text}{end}", f"{text}{end}", tokenizer, {}) for text in (chosen, rejected)
        )
    if not tokenizer.chat_template:
        raise ChatTemplateMissing("the rows hold conversations, and the model's tokenizer has no chat template")
    options = {"add_special_tokens": False}
    opened: str = render(conversation, tokenizer, is_open=True)
    wholes: list[str] = [render([*conversation, *_answer(answer)], tokenizer) for answer in (chosen, rejected)]
    # A generation prompt may be no prefix of the answered conversation, such as one that ends with "<think>".
    shared = shared_prefix(opened, *wholes)
    asked = tokenizer(shared, **options)["input_ids"]
    return asked, *(_after(asked, whole, whole.removeprefix(shared), tokenizer, options) for whole in wholes)


def _answer(cell: Any) -> list[dict[str, str]]:
    return messages(cell) or [] if is_conversation(cell) else [{"role": "assistant", "content": cell}]


def _after(asked: list[int], whole: str, rest: str, tokenizer: Any, options: dict[str, Any]) -> list[int]:
    # Read together where that leaves the prompt as it is, because some tokenizers write the begin of a text otherwise.
    ids: list[int] = tokenizer(whole, verbose=False, **options)["input_ids"]
    if ids[: len(asked)] == asked and len(ids) > len(asked):
        return ids[len(asked) :]
    return cast("list[int]", tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"])


def _fitted(prompt: list[int], chosen: list[int], rejected: list[int], size: int) -> tuple[list[int], ...]:
    room = max(size - max(len(chosen), len(rejected)), size // 2)
    kept = prompt[-room:] if len(prompt) > room else prompt
    return kept, chosen[: size - len(kept)], rejected[: size - len(kept)]


TASK = PreferenceTask()
