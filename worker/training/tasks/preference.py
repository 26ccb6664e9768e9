"""A text generator learns to prefer the answers that people prefer.

{"prompt": "Dark screen.", "chosen": "Is it plugged in?", "rejected": "Not my problem.", "_row": 3}
data.columns: {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
encoded: {"prompt_input_ids": [1, 4093], "chosen_input_ids": [7, …, 2], "rejected_input_ids": [11, …, 2],
          "reference": [-21.5, -19.0]}    what the model said of both answers before training
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
from worker.training.models.pretrained import build, load
from worker.training.tasks.protocol import REFERENCE, Batch, Collate, Features, Loss, Pass, Split, Told
from worker.training.tokens.truncation import check_lengths, place_of

UNLEARNED = -100
ANSWERS = ("chosen", "rejected")


class PreferenceTask:
    """Direct preference optimisation. Training goes through TRL; this is how rows are encoded and judged."""

    metrics: ClassVar[Metrics] = PREFERENCES
    pipeline: ClassVar[str] = "text-generation"

    def check(self, spec: JobSpec, tokenizer: Any, config: Any) -> None:
        """Any tokenizer will do for texts; conversations need a chat template, which `encode` sees."""

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
        cut = [len(prompt) + max(map(len, answers)) > max_length for prompt, *answers in found]
        fitting = [_fitted(*parts, size=max_length) for parts in found]
        names = [f"{part}_input_ids" for part in ("prompt", *ANSWERS)]
        return {**{name: [parts[place] for parts in fitting] for place, name in enumerate(names)}, "cut": cut}

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """The chosen sequences, then the rejected. `labels` (rows, 2, tokens + 1): the answers' tokens, and what the reference said."""
        pad = tokenizer.pad_token_id

        def collate(rows: list[Features]) -> Batch:
            whole = [row["prompt_input_ids"] + row[f"{part}_input_ids"] for part in ANSWERS for row in rows]
            said = [
                [UNLEARNED] * len(row["prompt_input_ids"]) + row[f"{part}_input_ids"]
                for part in ANSWERS
                for row in rows
            ]
            width = max(map(len, whole))
            reference = [row.get(REFERENCE, (0.0, 0.0))[place] for place in range(2) for row in rows]
            # Float64 holds token ids exactly.
            told = torch.cat(
                [_padded(said, width, UNLEARNED).double(), torch.tensor(reference).double()[:, None]], dim=1
            )
            return {
                "input_ids": _padded(whole, width, pad),
                "attention_mask": _padded([[1] * len(ids) for ids in whole], width, 0),
                "labels": told.view(2, len(rows), -1).transpose(0, 1).contiguous(),
            }

        return collate

    def loss(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> Loss:
        """The loss of DPO, of its hinge form (Zhao et al., 2023) or of IPO (Azar et al., 2023), as TRL computes them."""
        asked = cast("Preference", spec.task)

        def preferred(outputs: Any, told: torch.Tensor, count: Any) -> torch.Tensor:
            gains, lengths = _gains(outputs["logits"], told)
            losses = _losses(gains, lengths, asked)
            return losses.sum() / (len(told) if count is None else count)

        return preferred

    def weight(self, labels: torch.Tensor) -> int:
        """Its rows."""
        return len(labels)

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The rewards of both answers to each row."""
        gains, _ = _gains(done.outputs["logits"], done.labels)
        return cast("list[Any]", (cast("Preference", spec.task).beta * gains).T.tolist())

    def tell(self, split: Split, answers: list[Any]) -> Told:
        """Rewards of the chosen answers, and of the rejected."""
        return Told([chosen for chosen, _ in answers], [rejected for _, rejected in answers])

    def describe(self, split: Split, answers: list[Any], told: Told) -> Iterator[dict[str, Any]]:
        """Place, texts, and the reward of each answer."""
        columns = split.spec.columns
        rows = (row for batch in split.rows.batches() for row in batch)
        for row, (chosen, rejected) in zip(rows, answers, strict=True):
            texts = {part: row[columns[part]] for part in ("prompt", *ANSWERS)}
            yield {**place_of(row), **texts, "reward_chosen": round(chosen, 6), "reward_rejected": round(rejected, 6)}

    def report(self, split: Split, told: Told) -> dict[str, dict[str, float]] | None:
        """Nothing more."""
        return None

    def use(self, spec: JobSpec) -> str:
        """The pipeline: it knows the chat template, where there is one."""
        return (
            "from transformers import pipeline\n\n"
            'generate = pipeline("text-generation", model="FOLDER")\n'
            'print(generate("…", max_new_tokens=100)[0]["generated_text"])'
        )


def log_probabilities(logits: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The log probability of each answer (2, rows), and its tokens. `told` are labels as `collate` makes them."""
    said = told[..., :-1].transpose(0, 1).reshape(-1, told.shape[-1] - 1).long()[:, 1:]
    learned = said != UNLEARNED
    chosen = logits[:, :-1][learned].float()
    each = torch.zeros(said.shape, device=logits.device)
    each[learned] = -torch.nn.functional.cross_entropy(chosen, said[learned], reduction="none")
    return each.sum(dim=-1).view(2, -1), learned.sum(dim=-1).view(2, -1)


def _gains(logits: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found, lengths = log_probabilities(logits, told)
    return found - told[..., -1].T.float(), lengths


def _losses(gains: torch.Tensor, lengths: torch.Tensor, asked: Preference) -> torch.Tensor:
    margin = gains[0] - gains[1]
    match asked.loss:
        case "sigmoid":
            return -torch.nn.functional.logsigmoid(asked.beta * margin)
        case "hinge":
            return torch.relu(1 - asked.beta * margin)
        case "ipo":
            mean = gains / lengths.clamp(min=1)
            return (mean[0] - mean[1] - 1 / (2 * asked.beta)) ** 2


def _tokens(row: Row, columns: dict[str, str], tokenizer: Any) -> tuple[list[int], ...]:
    prompt, chosen, rejected = (row[columns[part]] for part in ("prompt", *ANSWERS))
    talk = messages(prompt) if is_conversation(prompt) else None
    if talk is None:
        end = tokenizer.eos_token or ""
        asked: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
        return asked, *(
            _after(asked, f"{prompt}{text}{end}", f"{text}{end}", tokenizer, {}) for text in (chosen, rejected)
        )
    if not tokenizer.chat_template:
        raise ChatTemplateMissing("the rows hold conversations, and the model's tokenizer has no chat template")
    told = {"add_special_tokens": False}
    opened: str = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    asked = tokenizer(opened, **told)["input_ids"]
    wholes: list[str] = [
        tokenizer.apply_chat_template([*talk, *_answer(answer)], tokenize=False) for answer in (chosen, rejected)
    ]
    return asked, *(_after(asked, whole, whole.removeprefix(opened), tokenizer, told) for whole in wholes)


def _answer(cell: Any) -> list[dict[str, str]]:
    return messages(cell) or [] if is_conversation(cell) else [{"role": "assistant", "content": cell}]


def _after(asked: list[int], whole: str, rest: str, tokenizer: Any, told: dict[str, Any]) -> list[int]:
    # Read together where that leaves the prompt as it is, because some tokenizers write the begin of a text otherwise.
    ids: list[int] = tokenizer(whole, verbose=False, **told)["input_ids"]
    if ids[: len(asked)] == asked and len(ids) > len(asked):
        return ids[len(asked) :]
    return cast("list[int]", tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"])


def _fitted(prompt: list[int], chosen: list[int], rejected: list[int], size: int) -> tuple[list[int], ...]:
    room = max(size - max(len(chosen), len(rejected)), size // 2)
    kept = prompt[-room:] if len(prompt) > room else prompt
    return kept, chosen[: size - len(kept)], rejected[: size - len(kept)]


def _padded(lists: list[list[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in lists])
