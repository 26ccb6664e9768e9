"""Trains vectors of sentences with sentence-transformers, tuned by hand for a CPU: `embed.py MODEL TRAIN.jsonl EVAL.jsonl OUT`.

Prints what `Clock` does. The loss takes the other positives of the batch as negatives, as in our task.
"""

import json
import sys
from pathlib import Path
from typing import Any

from clock import Clock
from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss


def main(model: str, train: str, evaluation: str, out: str) -> None:
    """Train for one epoch, evaluate, save, and print."""
    rows: Any = load_dataset("json", data_files={"train": train})
    pairs = [json.loads(line) for line in Path(evaluation).read_text().splitlines()]
    texts = {str(number): pair["positive"] for number, pair in enumerate(pairs)}
    evaluator = InformationRetrievalEvaluator(
        queries={str(number): pair["anchor"] for number, pair in enumerate(pairs)},
        corpus=texts,
        relevant_docs={number: {number} for number in texts},
        main_score_function="cosine",
    )
    encoder, clock = SentenceTransformer(model, device="cpu"), Clock()
    encoder.max_seq_length = 128
    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=SentenceTransformerTrainingArguments(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=32,
            learning_rate=5e-5,
            batch_sampler="no_duplicates",
            eval_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        loss=MultipleNegativesRankingLoss(encoder),
        evaluator=evaluator,
        callbacks=[clock],
    )
    trainer.train()
    encoder.save_pretrained(out)
    clock.print(trainer.state.log_history, "eval_cosine_mrr@10")


if __name__ == "__main__":
    main(*sys.argv[1:])
