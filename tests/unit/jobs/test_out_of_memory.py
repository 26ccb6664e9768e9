"""What the next attempt changes after memory ran out, and what the failure says."""

from dataclasses import replace

import pytest
from attempts import out_of_memory, resolved

from app.jobs.out_of_memory import failure_of, shrink
from app.jobs.outcomes import OutOfMemory


def test_an_automatic_batch_is_halved_and_a_step_keeps_its_rows() -> None:
    assert shrink(out_of_memory("training")) == resolved(batch_size=8, gradient_accumulation=4)
    assert shrink(out_of_memory("profiling")) == resolved(batch_size=8, gradient_accumulation=4)
    assert shrink(out_of_memory("evaluating")) == resolved(eval_batch_size=16)
    assert shrink(out_of_memory("profiling_evaluation")) == resolved(eval_batch_size=16)


@pytest.mark.parametrize(
    "outcome",
    [
        out_of_memory("training", batch_size=16),
        out_of_memory("training", settings=resolved(batch_size=1)),
        out_of_memory("evaluating", eval_batch_size=32),
        out_of_memory("evaluating", settings=resolved(eval_batch_size=1)),
        out_of_memory("tokenizing"),
        out_of_memory("packaging"),
        replace(out_of_memory("training"), resolved=None),
    ],
)
def test_nothing_is_halved_where_it_was_asked_for_or_cannot_help(outcome: OutOfMemory) -> None:
    assert shrink(outcome) is None


def test_the_failure_says_what_was_done_the_peak_and_what_to_change() -> None:
    ended = replace(
        out_of_memory("training", batch_size=16), peak_bytes=3 * 2**30, message="tried 2 GiB", log_tail="end"
    )
    failure = failure_of(ended, None)
    assert failure.message == (
        "Memory ran out while training with 16 rows per forward pass of up to 128 tokens. It held 3.00 GiB at its peak."
    )
    assert 'training.batch_size to "auto"' in failure.hint
    assert "or to 8 with training.gradient_accumulation 2" in failure.hint
    assert failure.to_json() == {
        "code": "out_of_memory",
        "message": failure.message,
        "hint": failure.hint,
        "details": {
            "phase": "training", "peak_bytes": 3 * 2**30, "said": "tried 2 GiB", "batch_size": 16, "gradient_accumulation": 2,
            "eval_batch_size": 32, "max_length": 128, "device": "cpu",
        },
        "log_tail": "end",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (1024, "training.batch_tokens to 512 with training.gradient_accumulation 2"),
        # The spec has max_length 512, and the model takes 128.
        (1022, "must be at least tokenization.max_length"),
    ],
)
def test_batches_of_tokens_are_not_halved_and_the_hint_is_one_that_the_service_takes(tokens: int, says: str) -> None:
    ended = out_of_memory("training", batch_size=8, settings=resolved(batch_size=8, batch_tokens=tokens))
    assert shrink(ended) is None
    failure = failure_of(ended, None)
    assert f"with {tokens} tokens per forward pass" in failure.message
    assert says in failure.hint


def test_before_settings_are_resolved_only_less_data_helps() -> None:
    failure = failure_of(replace(out_of_memory("preparing"), resolved=None), None)
    assert failure.message == "Memory ran out while preparing."
    assert "data.subset" in failure.hint


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        ("training", "with batch_size 8 and gradient_accumulation 4: a step still takes 32 rows"),
        ("profiling", "with batch_size 8 and gradient_accumulation 4: a step still takes 32 rows"),
        ("evaluating", "with evaluation batches of 16 rows"),
        ("profiling_evaluation", "with evaluation batches of 16 rows"),
    ],
)
def test_a_retry_says_with_what(phase: str, says: str) -> None:
    ended = out_of_memory(phase)
    assert says in failure_of(ended, shrink(ended)).hint
