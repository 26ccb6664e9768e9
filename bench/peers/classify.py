"""The script that a user would run instead: `classify.py tutorial|tuned MODEL TRAIN.csv EVAL.csv OUT [SHARE]`.

`tutorial` follows https://huggingface.co/docs/transformers/training. `tuned` is what an engineer makes of it on a CPU.
With SHARE, only this share of the rows is used. Prints what `Clock` does.
"""

import sys
from typing import Any

import numpy as np
from clock import Clock
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main(kind: str, model: str, train: str, evaluation: str, out: str, share: str = "1") -> None:
    """Train for one epoch, evaluate, and print."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows: Any = load_dataset("csv", data_files={"train": train, "eval": evaluation})
    names = sorted(set(rows["train"]["label"]))
    is_tuned = kind == "tuned"

    def encode(batch: Any) -> Any:
        encoded = tokenizer(batch["text"], padding=False if is_tuned else "max_length", truncation=True, max_length=512)
        return {**encoded, "labels": [names.index(label) for label in batch["label"]]}

    rows = {name: part.select(range(round(len(part) * float(share)))) for name, part in rows.items()}
    rows = {name: part.map(encode, batched=True, remove_columns=["text", "label"]) for name, part in rows.items()}
    tuned = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 32, "save_strategy": "no"}
    clock = Clock()
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(names)),
        args=TrainingArguments(
            output_dir=out,
            num_train_epochs=1,
            eval_strategy="epoch",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **(tuned if is_tuned else {}),
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"accuracy": float((np.argmax(found[0], axis=-1) == found[1]).mean())},
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(out)
    clock.print(trainer.state.log_history, "eval_accuracy")


if __name__ == "__main__":
    main(*sys.argv[1:])
