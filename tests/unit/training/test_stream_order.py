"""What a stream gives for rows of each kind of job, and in which order."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tiny import sentences
from tiny_generator import conversations, make_generator
from tiny_models import make_reader, make_tagger, questions, tagged_sentences

from app.specs import JobSpec
from worker.training.errors import Stopped
from worker.training.inputs.sources import from_rows
from worker.training.inputs.table import Table
from worker.training.loop.feed import Stream, learned
from worker.training.planning.plan import Plan

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
PAIRS = [{"anchor": row["text"], "positive": f"the {row['text']}"} for row in sentences(40)]
KINDS: dict[str, tuple[Callable[[Path], Path] | None, dict[str, Any], list[dict[str, Any]]]] = {
    "text-classification": (None, {"labels": ["bad", "good"]}, sentences(2300)),
    "token-classification": (make_tagger, {"labels": TAGS}, tagged_sentences(40)),
    "question-answering": (make_reader, {"stride": 2}, questions(40)),
    "causal-lm": (make_generator, {"format": "messages"}, conversations(40)),
    "sentence-embedding": (None, {}, PAIRS),
}
Make = Callable[[JobSpec], Plan]


def prepared(kind: str, plan: Make, models_dir: Path) -> Plan:
    """A plan over rows that are all there, so that a stream of the same rows can be held against it."""
    model, task, rows = KINDS[kind]
    if model is not None and not (models_dir / kind).exists():
        model(models_dir / kind)
    body = {
        "task": {"type": kind, **task},
        "model": "local:tiny" if model is None else f"local:{kind}",
        "data": {"train": {"rows": rows}},
        "tokenization": {"max_length": 11 if kind == "question-answering" else 32},
        "training": {"max_steps": 10},
        "resources": {"gpus": 0},
    }
    return plan(JobSpec.model_validate(body))


def streamed(ready: Plan, *, buffer: int = 7, size: int = 1000, seed: int = 42, stopping: bool = False) -> Stream:
    train = {"hub": "someone/x", "streaming": True, "shuffle_buffer": buffer}
    body = {**ready.spec.model_dump(mode="json"), "data": {"train": train}}
    spec = JobSpec.model_validate({**body, "training": {**body["training"], "seed": seed}})
    rows = ready.spec.data.train.model_dump()["rows"]

    def tables() -> Iterator[Table]:
        for start in range(0, len(rows), size):
            yield from_rows(rows[start : start + size])

    stop = threading.Event()
    if stopping:
        stop.set()
    return Stream(tables, replace(ready, spec=spec, stop=stop))


def counted(sequences: Iterable[Any]) -> Counter[str]:
    return Counter(json.dumps(sequence, sort_keys=True) for sequence in sequences)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_gives_each_sequence_that_is_kept_of_rows_read_whole(kind: str, plan: Make, models_dir: Path) -> None:
    ready = prepared(kind, plan, models_dir)
    expected = counted(learned(ready))
    count = expected.total()
    assert count >= 40
    found = iter(streamed(ready))
    first, second = list(islice(found, count)), list(islice(found, count))
    assert counted(first) == counted(second) == expected
    assert first != second


def test_the_order_is_of_the_seed_and_of_nothing_else(plan: Make, models_dir: Path) -> None:
    ready = prepared("text-classification", plan, models_dir)
    first = list(islice(streamed(ready, buffer=500), 3000))
    assert list(islice(streamed(ready, buffer=500, size=300), 3000)) == first
    assert list(islice(streamed(ready, buffer=500, seed=43), 3000)) != first


def test_a_wish_to_stop_is_met_before_anything_new_is_learned(plan: Make, models_dir: Path) -> None:
    ready = prepared("token-classification", plan, models_dir)
    with pytest.raises(Stopped):
        next(iter(streamed(ready, stopping=True)))
