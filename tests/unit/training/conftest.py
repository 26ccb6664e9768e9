"""A BERT of a few thousand weights and a handful of rows: a whole training run takes a second."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from app.specs import JobSpec, Resolved
from worker.training.reports import Record, Reporter
from worker.training.request import TrainingRequest
from worker.training.run import run

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "awful", "poor", "dull")
FILLER = ("the", "film", "was", "a", "plot", "very")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `local:tiny`."""
    folder = tmp_path_factory.mktemp("models")
    words = [*SPECIAL, *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.1,
    )
    model = BertModel(config)
    with torch.no_grad():
        # What pretraining would have taught it: good words are alike, and bad words are their opposite.
        direction = torch.randn(config.hidden_size)
        for word in (*GOOD, *BAD):
            model.embeddings.word_embeddings.weight[words.index(word)] += direction if word in GOOD else -direction
    model.save_pretrained(folder / "tiny")
    fast.save_pretrained(folder / "tiny")
    return folder


def sentences(count: int) -> list[dict[str, Any]]:
    """Rows with a label that one of their words tells."""
    return [
        {
            "text": f"the film was {FILLER[n % 6]} {(GOOD if n % 2 else BAD)[n % 4]} {FILLER[n // 3 % 6]}",
            "label": "good" if n % 2 else "bad",
        }
        for n in range(count)
    ]


@pytest.fixture
def rows() -> Callable[[int], list[dict[str, Any]]]:
    """Makes rows for a spec."""
    return sentences


@pytest.fixture
def spec() -> Callable[..., JobSpec]:
    """A spec that trains the tiny model; parts are merged in by name."""

    def make(rows: int = 24, **parts: Any) -> JobSpec:
        body: dict[str, Any] = {
            "task": {"type": "text-classification"},
            "model": {"id": "local:tiny"},
            "data": {"train": {"rows": sentences(rows)}, "eval": {"rows": sentences(10)}},
            "training": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "logging_steps": 1},
            "resources": {"gpus": 0},
        }
        for name, part in parts.items():
            body[name] = {**body.get(name, {}), **part} if isinstance(part, dict) else part
        return JobSpec.model_validate(body)

    return make


class Run:
    """What one attempt left behind."""

    def __init__(self, out_dir: Path, records: list[Record]) -> None:
        self.out_dir, self.records = out_dir, records
        self.result = records[-1]

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["type"] == kind]

    @property
    def resolved(self) -> Resolved:
        return Resolved.model_validate(self.of("resolved")[0]["resolved"])

    @property
    def weights(self) -> bytes:
        return (self.out_dir / "model" / "model.safetensors").read_bytes()

    def series(self, name: str) -> dict[int, float]:
        return {record["step"]: record["values"][name] for record in self.of("metric") if name in record["values"]}


@pytest.fixture
def train(tmp_path: Path, models_dir: Path) -> Callable[..., Run]:
    """Run one attempt in this process. `stop_when` sees each record and stops the run when it says so."""

    def attempt(
        spec: JobSpec,
        name: str = "out",
        stop_when: Callable[[Record], bool] = lambda _: False,
        **more: Any,
    ) -> Run:
        out_dir = tmp_path / name
        request = TrainingRequest(
            **{
                "spec": spec,
                "out_dir": out_dir,
                "datasets": {},
                "models_dir": models_dir,
                "jobs_models": {},
                "resolved": None,
                "resume_from": None,
                **more,
            }
        )
        stop = threading.Event()
        records: list[Record] = []

        def listen(record: Record) -> None:
            records.append(record)
            if stop_when(record):
                stop.set()

        run(TrainingRequest.from_json(request.to_json()), Reporter(out_dir, listen), stop)
        lines = (out_dir / "reports.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines][-len(records) :] == records
        assert [record["type"] for record in records].count("result") == 1
        return Run(out_dir, records)

    return attempt
