"""The script that a user would run instead: `classify.py tutorial|tuned MODEL TRAIN.csv EVAL.csv OUT`.

`tutorial` follows https://huggingface.co/docs/transformers/training. `tuned` is what an engineer makes of it on a CPU.
"""

import json
import sys
from typing import Any

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


def main(kind: str, model: str, train: str, evaluation: str, out: str) -> None:
    """Train for one epoch, evaluate, and print the metrics as JSON."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows: Any = load_dataset("csv", data_files={"train": train, "eval": evaluation})
    names = sorted(set(rows["train"]["label"]))
    is_tuned = kind == "tuned"

    def encode(batch: Any) -> Any:
        encoded = tokenizer(batch["text"], padding=False if is_tuned else "max_length", truncation=True, max_length=512)
        return {**encoded, "labels": [names.index(label) for label in batch["label"]]}

    rows = rows.map(encode, batched=True, remove_columns=["text", "label"])
    tuned = {"train_sampling_strategy": "group_by_length", "per_device_eval_batch_size": 32, "save_strategy": "no"}
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
    )
    trainer.train()
    metrics = trainer.state.log_history[-2] if "train_runtime" in trainer.state.log_history[-1] else {}
    trainer.save_model(out)
    print(json.dumps(metrics))


if __name__ == "__main__":
    main(*sys.argv[1:])
