"""Trains a chat model with LoRA and TRL, tuned by hand for a CPU: `chat.py MODEL TRAIN.jsonl EVAL.jsonl OUT`.

Prints what `Clock` does. The loss is that of the assistant's messages, as in our task.
"""

import sys
from typing import Any

from clock import Clock
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main(model: str, train: str, evaluation: str, out: str) -> None:
    """Train for one epoch, evaluate, merge, save, and print."""
    rows: Any = load_dataset("json", data_files={"train": train, "eval": evaluation})
    rows = rows.map(
        lambda row: {"prompt": row["messages"][:1], "completion": row["messages"][1:]}, remove_columns=["messages"]
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=SFTConfig(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=8,
            learning_rate=5e-4,
            max_length=256,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="no",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[clock],
    )
    trainer.train()
    merged: Any = trainer.model
    merged.merge_and_unload().save_pretrained(out)
    clock.print(trainer.state.log_history, "eval_loss")


if __name__ == "__main__":
    main(*sys.argv[1:])
