"""The script that a user would run instead: `classify.py tutorial|tuned MODEL TRAIN.csv EVAL.csv OUT [SHARE]`.

`tutorial` follows https://huggingface.co/docs/transformers/training. `tuned` is what an engineer makes of it on a CPU.
With SHARE, only this share of the rows is used. Prints one JSON object: eval_accuracy, the seconds from the start of the
process to the end of the first step (`first_step`) and to the beginning of training (`start`).
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Clock(TrainerCallback):
    """Notes when training begins and when its first step ends, in seconds from the start of the process."""

    def __init__(self) -> None:
        self.noted: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Note the beginning."""
        self.noted["start"] = _since_start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the first step."""
        self.noted.setdefault("first_step", _since_start())


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
    accuracy = next(log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log)
    trainer.save_model(out)
    print(json.dumps({"eval_accuracy": accuracy, **clock.noted}))


def _since_start() -> float:
    # Field 22 of proc(5) is the start in clock ticks since boot.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(*sys.argv[1:])
