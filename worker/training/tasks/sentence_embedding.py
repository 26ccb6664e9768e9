"""An encoder learns to put texts that belong together near each other.

{"anchor": "How do I reset my password?", "positive": "Choose 'forgotten password'.", "_row": 3}
data.columns: {"anchor": "anchor", "positive": "positive"}
encoded: {"anchor_input_ids": [101, …, 102], "positive_input_ids": [101, …, 102]}
a batch: inputs {"input_ids": anchors, then positives, then negatives}, targets {"mask": their tokens (parts, rows, tokens)}
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import numpy as np
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel

from app.specs import JobSpec, Resolved
from app.specs.tasks.sentence_embedding import SentenceEmbedding
from worker.training.evaluation.metrics import Metrics
from worker.training.evaluation.metrics.retrieval import RETRIEVAL, finds
from worker.training.inputs.table import Row
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
from worker.training.tokens.truncation import check_lengths, place_of

PARTS = ("anchor", "positive", "negative")


class SentenceEmbeddingTask(Task):
    """The encoder without a head; in-batch negatives (van den Oord et al., 2018), as sentence-transformers has them."""

    metrics: ClassVar[Metrics] = RETRIEVAL
    pipeline: ClassVar[str] = "sentence-similarity"
    model_class: ClassVar[Any] = AutoModel
    peft_type: ClassVar[str | None] = "FEATURE_EXTRACTION"

    def build_model(self, folder: Path, spec: JobSpec, labels: list[str], **kind: Any) -> tuple[Any, tuple[str, ...]]:
        """The pretrained encoder. A pooler that it lacks is not used."""
        model, _ = build(AutoModel, folder, spec, {}, **kind)
        return model, ()

    def load_model(self, folder: Path, spec: JobSpec) -> Any:
        """An encoder that was saved before."""
        return load(AutoModel, folder, spec)

    def encode(
        self, rows: list[Row], tokenizer: Any, spec: JobSpec, labels: list[str], max_length: int, split: str
    ) -> dict[str, list[Any]]:
        """`PART_input_ids` of each part, and `truncated` where any of them was."""
        columns, truncation = spec.columns, spec.tokenization.truncation
        features: dict[str, list[Any]] = {}
        truncated = [False] * len(rows)
        for part in [part for part in PARTS if part in columns]:
            ids = cast("list[list[int]]", tokenizer([row[columns[part]] for row in rows], verbose=False)["input_ids"])
            if not truncation:
                check_lengths(rows, ids, max_length, columns[part])
            truncated = [was or len(own) > max_length for was, own in zip(truncated, ids, strict=True)]
            if any(truncated):
                tokens = tokenizer([row[columns[part]] for row in rows], truncation=True, max_length=max_length)
                ids = cast("list[list[int]]", tokens["input_ids"])
            features[f"{part}_input_ids"] = ids
        return {**features, "truncated": truncated}

    def collate(self, tokenizer: Any, spec: JobSpec, max_length: int) -> Collate:
        """All parts below each other, padded to the longest of all, or to `max_length`."""
        padding = spec.tokenization.padding

        def collate(rows: list[Features]) -> Batch:
            parts = [part for part in PARTS if f"{part}_input_ids" in rows[0]]
            texts = [{"input_ids": row[f"{part}_input_ids"]} for part in parts for row in rows]
            padded = tokenizer.pad(texts, padding=padding, max_length=max_length, return_tensors="pt")
            inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
            mask = inputs["attention_mask"].view(len(parts), len(rows), -1)
            return Batch(inputs, {"mask": mask}, num_items=len(rows))

        return collate

    def training_step(self, spec: JobSpec, labels: list[str], train: datasets.Dataset) -> TrainingStep:
        """Cross entropy of each anchor's own positive among all positives and negatives of the batch."""
        # It takes seconds to import, and other tasks do without.
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss  # noqa: PLC0415

        asked = cast("SentenceEmbedding", spec.task)
        ranking = MultipleNegativesRankingLoss(cast("Any", None), scale=asked.scale)

        def step(model: Any, batch: Batch) -> StepResult:
            vectors = _vectors(model, batch, asked)
            mean = ranking.compute_loss_from_embeddings(list(vectors), cast("Any", None))
            return StepResult(mean * batch.num_items, batch.num_items, {"vectors": vectors})

        return step

    def answers(self, done: Pass, spec: JobSpec, tokenizer: Any) -> list[Any]:
        """The unit vectors of each row's parts (parts, dimensions; float32)."""
        return list(torch.nn.functional.normalize(done.outputs["vectors"], dim=-1).transpose(0, 1).cpu().numpy())

    def eval_prediction(self, split: Split, answers: list[Any]) -> EvalPrediction:
        """The rank of each positive among all, and whether it was nearer than the negative."""
        vectors = np.stack(answers)
        negatives = vectors[:, 2] if vectors.shape[1] > 2 else None  # noqa: PLR2004 - anchor and positive come first
        return EvalPrediction(finds(vectors[:, 0], vectors[:, 1], negatives), list(range(len(answers))))

    def describe(self, split: Split, answers: list[Any], evaluated: EvalPrediction) -> Iterator[dict[str, Any]]:
        """Place, texts, the cosine of anchor and positive, and the rank of the positive."""
        columns = split.spec.columns
        for row, vectors, find in zip(split.rows, answers, evaluated.predictions, strict=True):
            texts = {part: row[columns[part]] for part in PARTS if part in columns}
            yield {**place_of(row), **texts, "cosine": round(float(vectors[0] @ vectors[1]), 6), "rank": find["rank"]}

    def use(self, spec: JobSpec) -> str:
        """With sentence-transformers, whose files are in the model folder."""
        return (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("FOLDER")\nprint(model.similarity(model.encode("…"), model.encode(["…", "…"])))'
        )

    def finish(self, folder: Path, spec: JobSpec, resolved: Resolved) -> None:
        """Add the modules that sentence-transformers loads: pooling, and normalization to vectors of length 1."""
        if not (folder / "config.json").is_file():
            # An adapter alone goes onto a model that has these.
            return
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - it takes seconds
        from sentence_transformers.base.modules import Normalize, Transformer  # noqa: PLC0415
        from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: PLC0415

        encoder = Transformer(str(folder))
        pooling = Pooling(encoder.get_embedding_dimension(), cast("SentenceEmbedding", spec.task).pooling)
        written = folder.with_name("modules")
        whole = SentenceTransformer(modules=[encoder, pooling, Normalize()], device="cpu")
        whole.save_pretrained(str(written), create_model_card=False)
        settings = written / "sentence_bert_config.json"
        changed = {**json.loads(settings.read_text()), "max_seq_length": resolved.max_length}
        settings.write_text(json.dumps(changed, indent=4))
        for path in sorted(path for path in written.rglob("*") if path.is_file()):
            target = folder / path.relative_to(written)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
        shutil.rmtree(written)


def _vectors(model: Any, batch: Batch, asked: SentenceEmbedding) -> torch.Tensor:
    """The vectors of all texts (parts, rows, dimensions; float32).

    With `mini_batch_size`, only the vectors are kept for the backward pass, which computes one mini-batch after the other
    again: the gradients are those of the whole batch (GradCache: Gao et al., 2021).
    """
    mask = batch.targets["mask"]
    texts = mask.flatten(0, 1)

    def encode(ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=attention_mask)["last_hidden_state"]
        return _pooled(hidden, attention_mask, asked.pooling)

    size = asked.mini_batch_size or len(texts)
    if size >= len(texts):
        vectors = encode(batch.inputs["input_ids"], texts)
    else:
        parts = zip(batch.inputs["input_ids"].split(size), texts.split(size), strict=True)
        # It draws the same random numbers again for dropout.
        vectors = torch.cat([cast("Any", checkpoint)(encode, *part, use_reentrant=False) for part in parts])
    return vectors.view(*mask.shape[:2], -1)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    # (texts, tokens, dimensions) to (texts, dimensions).
    vectors = hidden.float()
    if pooling == "cls":
        return vectors[torch.arange(len(vectors), device=vectors.device), mask.argmax(dim=-1)]
    weights = mask.unsqueeze(-1).float()
    return (vectors * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


TASK = SentenceEmbeddingTask()
