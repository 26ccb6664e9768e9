"""Labels words with Trainer, tuned by hand for a CPU: `tag.py MODEL TRAIN.jsonl EVAL.jsonl OUT`. Prints what `Clock` does."""

import sys
from typing import Any

import numpy as np
from clock import Clock
from datasets import load_dataset
from seqeval.metrics import f1_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

IGNORED = -100


def main(model: str, train: str, evaluation: str, out: str) -> None:
    """Train for one epoch, evaluate, and print."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows: Any = load_dataset("json", data_files={"train": train, "eval": evaluation})
    names = sorted({tag for split in ("train", "eval") for tags in rows[split]["tags"] for tag in tags})

    def encode(batch: Any) -> Any:
        encoded = tokenizer(batch["tokens"], is_split_into_words=True, truncation=True, max_length=64)
        labels: list[list[int]] = []
        for row, tags in enumerate(batch["tags"]):
            words = encoded.word_ids(row)
            labels.append(
                [
                    names.index(tags[word]) if word is not None and word != before else IGNORED
                    for before, word in zip([None, *words], words, strict=False)
                ]
            )
        return {**encoded, "labels": labels}

    def score(found: Any) -> dict[str, float]:
        predicted = np.argmax(found[0], axis=-1)
        kept = [
            (line[known != IGNORED], known[known != IGNORED]) for line, known in zip(predicted, found[1], strict=True)
        ]
        named = [[[names[label] for label in labels] for labels in pair] for pair in kept]
        return {"f1": float(f1_score([known for _, known in named], [line for line, _ in named]))}

    rows = rows.map(encode, batched=True, remove_columns=["tokens", "tags"])
    clock = Clock()
    trainer = Trainer(
        model=AutoModelForTokenClassification.from_pretrained(model, num_labels=len(names)),
        args=TrainingArguments(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            learning_rate=5e-4,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=score,
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(out)
    clock.print(trainer.state.log_history, "eval_f1")


if __name__ == "__main__":
    main(*sys.argv[1:])
