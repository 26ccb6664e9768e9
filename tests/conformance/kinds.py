"""For each task a tiny model, rows that it can learn, and how plain libraries are asked what the evaluation said."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_generator
import tiny_models
import tiny_texts
import torch

Line = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One task, as the conformance suite knows it."""

    make_model: Callable[[Path], Path]
    rows: Callable[[int], list[dict[str, Any]]]
    agrees: Callable[[Path, list[Line]], None]
    """Asserts that the published folder, loaded without us, says of raw rows what `predictions.jsonl` says."""
    train: int = 24
    evaluation: int = 12
    task: dict[str, Any] = field(default_factory=dict[str, Any])
    training: dict[str, Any] = field(default_factory=dict[str, Any])
    evaluations: dict[str, Any] = field(default_factory=dict[str, Any])


def _classifies(folder: Path, lines: list[Line]) -> None:
    from transformers import pipeline

    found = pipeline("text-classification", model=str(folder))([line["text"] for line in lines])
    assert [answer["label"] for answer in found] == [line["predicted"] for line in lines]
    assert [answer["score"] for answer in found] == pytest.approx([line["score"] for line in lines], abs=1e-4)


def _tags(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForTokenClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for line in lines:
        encoded = tokenizer(" ".join(line["tokens"]), return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        best = model(**encoded).logits[0].argmax(-1).tolist()
        begins = [sum(len(word) + 1 for word in line["tokens"][:place]) for place in range(len(line["tokens"]))]
        first = {begin: tag for (begin, end), tag in reversed(list(zip(offsets, best, strict=True))) if end > begin}
        assert [model.config.id2label[first[begin]] for begin in begins] == line["predicted"]


def _answers(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model, tokenizer = (
        AutoModelForQuestionAnswering.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for line in lines:
        encoded = tokenizer(line["question"], line["context"], return_tensors="pt", return_offsets_mapping=True)
        offsets, within = encoded.pop("offset_mapping")[0].tolist(), [part == 1 for part in encoded.sequence_ids(0)]
        with torch.no_grad():
            out = model(**encoded)
        spans = [
            (out.start_logits[0, a].item() + out.end_logits[0, b].item(), a, b)
            for a, is_context in enumerate(within)
            for b in range(a, len(within))
            if is_context and within[b]
        ]
        _, begin, end = max(spans)
        assert line["context"][offsets[begin][0] : offsets[end][1]] == line["predicted"]


def _writes(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for line in lines:
        made = model.generate(**tokenizer(line["source"], return_tensors="pt"), max_new_tokens=128, do_sample=False)
        assert tokenizer.decode(made[0], skip_special_tokens=True).strip() == line["predicted"].strip()


def _guesses(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for line in lines:
        assert len(line["hidden"]) == len(line["predicted"]) > 0
        right = sum(one == other for one, other in zip(line["hidden"], line["predicted"], strict=True))
        assert right / len(line["hidden"]) == pytest.approx(line["token_accuracy"], abs=1e-6)
    # Where one hidden token is seen as the mask, which one it was is known from the text if that has it once.
    matched = 0
    for line in lines:
        ids = tokenizer(line["text"], return_tensors="pt").input_ids
        if len(line["hidden"]) != 1 or line["text"].split().count(line["hidden"][0]) != 1:
            continue
        wanted = tokenizer.convert_tokens_to_ids(line["hidden"][0])
        masked = ids.masked_fill(ids == wanted, tokenizer.mask_token_id)
        with torch.no_grad():
            losses = [
                -model(input_ids=seen).logits[ids == wanted].log_softmax(-1)[0, wanted].item() for seen in (masked, ids)
            ]
        matched += any(loss == pytest.approx(line["loss"], abs=1e-4) for loss in losses)
    assert matched > 0


def _talks(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, line in zip(tiny_generator.conversations(len(lines)), lines, strict=True):
        opened, whole = (
            tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=is_open)
            for talk, is_open in ((row["messages"][:-1], True), (row["messages"], False))
        )
        ids = tokenizer(whole, return_tensors="pt", add_special_tokens=False).input_ids
        labels = ids.clone()
        labels[:, : len(tokenizer(opened, add_special_tokens=False).input_ids)] = -100
        assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(line["loss"], abs=1e-4)


def _prefers(folder: Path, lines: list[Line]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def said(model: Any, prompt: list[Any], answer: list[Any]) -> float:
        opened = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(
            tokenizer.apply_chat_template(prompt + answer, tokenize=False),
            return_tensors="pt",
            add_special_tokens=False,
        ).input_ids
        labels = ids.clone()
        labels[:, : len(tokenizer(opened, add_special_tokens=False).input_ids)] = -100
        return -model(input_ids=ids, labels=labels).loss.item() * int((labels != -100).sum())

    base = AutoModelForCausalLM.from_pretrained(folder.parents[1] / "models" / "tiny").eval()
    for line in lines:
        for part in ("chosen", "rejected"):
            reward = 0.1 * (said(model, line["prompt"], line[part]) - said(base, line["prompt"], line[part]))
            assert line[f"reward_{part}"] == pytest.approx(reward, abs=1e-3)


def _embeds(folder: Path, lines: list[Line]) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    anchors, positives = (model.encode([line[part] for line in lines]) for part in ("anchor", "positive"))
    assert (anchors * positives).sum(-1) == pytest.approx([line["cosine"] for line in lines], abs=1e-4)


def _documents(count: int) -> list[dict[str, Any]]:
    # Four documents a query, two of them relevant.
    return [
        {"query": tiny.FILLER[n // 4 % 6], "document": row["text"], "label": int(row["label"] == "good")}
        for n, row in enumerate(tiny.sentences(count))
    ]


def _ranks(folder: Path, lines: list[Line]) -> None:
    from sentence_transformers import CrossEncoder

    scores = CrossEncoder(str(folder), device="cpu").predict([(line["query"], line["document"]) for line in lines])
    assert scores == pytest.approx([line["predicted"] for line in lines], abs=1e-4)


FAST = {"epochs": 15, "learning_rate": 0.01}
KINDS: dict[str, Kind] = {
    "text-classification": Kind(tiny.make_model, tiny.sentences, _classifies, training=FAST),
    "token-classification": Kind(tiny_models.make_tagger, tiny_models.tagged_sentences, _tags, training=FAST),
    "question-answering": Kind(
        tiny_models.make_reader,
        tiny_models.questions,
        _answers,
        train=48,
        training={"epochs": 25, "learning_rate": 0.005},
    ),
    "seq2seq": Kind(
        tiny_texts.make_translator,
        tiny_texts.translations,
        _writes,
        train=36,
        training={**FAST, "epochs": 25},
        # Each evaluation writes texts, which takes longer than the steps between two of them.
        evaluations={"strategy": "steps", "every": 25},
    ),
    "masked-lm": Kind(
        tiny_texts.make_guesser,
        tiny_texts.weeks,
        _guesses,
        train=28,
        evaluation=14,
        training={"epochs": 25, "learning_rate": 0.005},
    ),
    "causal-lm": Kind(tiny_generator.make_generator, tiny_generator.conversations, _talks, training=FAST),
    "preference": Kind(tiny_generator.make_generator, tiny_generator.preferences, _prefers, training=FAST),
    "sentence-embedding": Kind(
        tiny.make_model,
        tiny.pairs,
        _embeds,
        train=42,
        evaluation=7,
        training={"epochs": 15, "learning_rate": 0.005, "batch_size": 7},
        # Words that are alike in the tiny model are nearly tied, so rounding may change their ranks, but not the loss.
        evaluations={"best_by": "loss"},
    ),
    "reranker": Kind(
        tiny.make_model,
        _documents,
        _ranks,
        training=FAST,
        # A new head may happen to rank all documents right, but not to draw the line between them.
        evaluations={"best_by": "accuracy"},
    ),
}
"""By the name of the task."""
