"""Other tasks against scripts tuned by hand: the same rows, epochs, batches and truncation, evaluation and start included.

token-classification   a small encoder, parts of 1,000 addresses      transformers' Trainer
causal-lm with lora    a chat model of 135 M, 96 questions            TRL's SFTTrainer with PEFT
sentence-embedding     a small encoder, 1,000 pairs of texts          sentence-transformers

The script's time is that of its whole process. Ours is that from `POST /v1/jobs` to `succeeded`, on a worker that is up.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]

import real_models  # noqa: E402 - found by the line above
import reviews  # noqa: E402
from peer_script import run_script  # noqa: E402
from service import Service, running_service  # noqa: E402

Rows = list[dict[str, Any]]
ENCODER, CHAT = "all-minilm-l6-v2", "smollm2"
PAIR_WORDS = (12, 90)


@dataclass(frozen=True)
class Case:
    """A task, its script, and the same settings for both."""

    script: str
    model: str
    rows: Callable[[], tuple[Rows, Rows]]
    body: dict[str, Any]
    metric: str


def main() -> None:
    """Run each task and its script, and print what they took and the ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=CASES, nargs="+", default=list(CASES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        models = _models(Path(name))
        for task in arguments.task:
            _compare(task, models, Path(name))


def _compare(task: str, models: Path, folder: Path) -> None:
    case, place = CASES[task], folder / task
    train, evaluation = case.rows()
    files = _write({"train": train, "eval": evaluation}, place)
    with running_service(models) as service:
        seconds, ours = _ours(service, task, case, files)
    theirs, noted = run_script(case.script, models / case.model, files["train"], files["eval"], place / "out")
    print(f"{task}: {len(train)} + {len(evaluation)} rows")
    print(f"  ours    {seconds:7.1f} s    1.00 times ours   {case.metric} {ours['metrics'][case.metric]:.3f}")
    print(f"  script  {theirs:7.1f} s   {theirs / seconds:5.2f} times ours   {case.metric} {noted['metric']:.3f}")


def _models(folder: Path) -> Path:
    models = reviews.models_dir(folder / "models")
    shutil.copytree(real_models.chat_model(real_models.CACHE), models / CHAT)
    return models


def _write(splits: dict[str, Rows], folder: Path) -> dict[str, Path]:
    folder.mkdir()
    files: dict[str, Path] = {}
    for split, rows in splits.items():
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def _ours(service: Service, task: str, case: Case, files: dict[str, Path]) -> tuple[float, dict[str, Any]]:
    data = {split: {"dataset": service.upload(path)} for split, path in files.items()}
    body = {"task": {"type": task}, "model": f"local:{case.model}", **case.body}
    # The worker is up when it has run a job; a new one still imports torch.
    first = {**body, "data": {"train": data["eval"], "eval": None}, "training": {"max_steps": 1}}
    service.run(first)
    began = time.perf_counter()
    job = service.run({**body, "data": data})
    return time.perf_counter() - began, job


def _addresses() -> tuple[Rows, Rows]:
    rows = real_models.addresses(real_models.CACHE)
    return rows[:1000], rows[1000:1200]


def _chat() -> tuple[Rows, Rows]:
    rows = real_models.support_chat(real_models.CACHE)
    return rows[:96], rows[160:180]


def _pairs() -> tuple[Rows, Rows]:
    # The two halves of a review belong together.
    rows: Rows = []
    for row in reviews.extreme_rows(reviews.fetch(real_models.CACHE)):
        words = row["text"].split()[: PAIR_WORDS[1]]
        if len(words) >= PAIR_WORDS[0]:
            middle = len(words) // 2
            rows.append({"anchor": " ".join(words[:middle]), "positive": " ".join(words[middle:])})
    return rows[:1000], rows[1000:1100]


CASES = {
    "token-classification": Case(
        "tag",
        ENCODER,
        _addresses,
        {
            "tokenization": {"max_length": 64},
            "training": {"epochs": 1, "batch_size": 16, "learning_rate": 5e-4},
        },
        "eval_f1",
    ),
    "causal-lm": Case(
        "chat",
        CHAT,
        _chat,
        {
            "tokenization": {"max_length": 256},
            "training": {
                "method": {"type": "lora", "rank": 8, "alpha": 16, "export": "merged"},
                "epochs": 1,
                "batch_size": 4,
                "learning_rate": 5e-4,
            },
        },
        "eval_loss",
    ),
    "sentence-embedding": Case(
        "embed",
        ENCODER,
        _pairs,
        {
            "tokenization": {"max_length": 128},
            "training": {"epochs": 1, "batch_size": 32, "learning_rate": 5e-5},
        },
        "eval_mrr",
    ),
}


if __name__ == "__main__":
    main()
