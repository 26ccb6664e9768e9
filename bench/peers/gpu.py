"""The script that a user with a GPU would run: `gpu.py encoder|decoder tutorial|tuned MODEL TRAIN EVAL OUT`.

`tutorial` follows https://huggingface.co/docs/transformers/training, in fp32. `tuned` has bf16, batches grouped by length, a
fused optimizer and a compiled model. Both learn the same as ours: labels of texts, or what the assistant says.
"""

import sys
from typing import Any

import torch
from clock import Clock
from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

TOKENS, BATCH, IGNORED = 512, 32, -100


def main(kind: str, script: str, model: str, train: str, evaluation: str, out: str) -> None:
    """Train for one epoch, evaluate, save, and print."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    is_encoder, is_tuned = kind == "encoder", script == "tuned"
    rows: Any = load_dataset("csv" if is_encoder else "json", data_files={"train": train, "eval": evaluation})
    names = sorted(set(rows["train"]["label"])) if is_encoder else []
    width: Any = False if is_tuned else "max_length"

    def classify(row: Any) -> Any:
        encoded = tokenizer(row["text"], padding=width, truncation=True, max_length=TOKENS)
        return {**encoded, "labels": names.index(row["label"])}

    def converse(row: Any) -> Any:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True)
        encoded = tokenizer(text, padding=width, truncation=True, max_length=TOKENS, add_special_tokens=False)
        asked = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        labels = [
            token if place >= asked and seen else IGNORED
            for place, (token, seen) in enumerate(zip(encoded["input_ids"], encoded["attention_mask"], strict=True))
        ]
        return {**encoded, "labels": labels}

    rows = rows.map(classify if is_encoder else converse, remove_columns=rows["train"].column_names)
    loaded: Any = (
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(names))
        if is_encoder
        else AutoModelForCausalLM.from_pretrained(model)
    )
    has_gpu = torch.cuda.is_available()
    tuned = {
        "bf16": has_gpu,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length",
        "torch_compile": has_gpu,
        "per_device_eval_batch_size": 2 * BATCH,
        "save_strategy": "no",
        "dataloader_num_workers": 2,
    }
    clock = Clock()
    trainer = Trainer(
        model=loaded,
        args=TrainingArguments(
            output_dir=out,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            eval_strategy="epoch",
            prediction_loss_only=True,
            report_to="none",
            disable_tqdm=True,
            **(tuned if is_tuned else {"tf32": False} if has_gpu else {}),
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        data_collator=DataCollatorWithPadding(tokenizer) if is_encoder else DataCollatorForSeq2Seq(tokenizer),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model(out)
    clock.print(trainer.state.log_history, "eval_loss")


if __name__ == "__main__":
    main(*sys.argv[1:])
