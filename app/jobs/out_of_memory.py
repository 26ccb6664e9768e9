"""After memory ran out: whether smaller batches can help, and the failure that the user sees."""

from app.failures import Failure, FailureCode
from app.jobs.outcomes import OutOfMemory
from app.specs import JobSpec, Resolved

GIB = 1024**3
# Workers of version 0.1 profile steps and an evaluation before training.
TRAINING = {"training": "training", "profiling": "profiling training steps"}
"""The phases in which memory depends on the training batch, as the message names them."""
EVALUATION = {"evaluating": "evaluating", "profiling_evaluation": "profiling the evaluation"}
"""The phases in which memory depends on the evaluation batch, as the message names them."""


def shrink(outcome: OutOfMemory) -> Resolved | None:
    """Halve the rows per forward pass if the spec leaves their number open. None if that cannot help.

    In training, a step then has twice the passes, so its rows and what is learned from them stay the same.
    """
    spec, resolved = outcome.spec, outcome.resolved
    if resolved is None:
        return None
    if outcome.phase in TRAINING and spec.training.batch_size == "auto" and resolved.batch_size > 1:
        halved = {
            "batch_size": resolved.batch_size // 2,
            "gradient_accumulation": resolved.gradient_accumulation * 2,
        }
        return resolved.model_copy(update=halved)
    if outcome.phase in EVALUATION and spec.evaluation.batch_size == "auto" and resolved.eval_batch_size > 1:
        return resolved.model_copy(update={"eval_batch_size": resolved.eval_batch_size // 2})
    return None


def failure_of(outcome: OutOfMemory, smaller: Resolved | None) -> Failure:
    """What the job was doing, the peak in bytes, and what to change. `smaller` is what the next attempt uses, if any."""
    resolved = outcome.resolved
    settings = (
        resolved.model_dump(include={"batch_size", "gradient_accumulation", "eval_batch_size", "max_length", "device"})
        if resolved
        else {}
    )
    peak = f" It held {outcome.peak_bytes / GIB:.2f} GiB at its peak." if outcome.peak_bytes else ""
    return Failure.of(
        FailureCode.OUT_OF_MEMORY,
        f"Memory ran out while {(TRAINING | EVALUATION).get(outcome.phase, outcome.phase)}{_batch(outcome.phase, resolved)}.{peak}",
        _next_attempt(outcome.phase, smaller) if smaller else _advice(outcome.phase, outcome.spec, resolved),
        details={
            "phase": outcome.phase,
            "peak_bytes": outcome.peak_bytes,
            "said": outcome.message,
            **settings,
        },
        log_tail=outcome.log_tail,
    )


def _batch(phase: str, resolved: Resolved | None) -> str:
    if resolved is None or phase not in TRAINING | EVALUATION:
        return ""
    if phase in TRAINING and resolved.batch_tokens is not None:
        return f" with {resolved.batch_tokens} tokens per forward pass"
    rows = resolved.batch_size if phase in TRAINING else resolved.eval_batch_size
    return f" with {rows} rows per forward pass of up to {resolved.max_length} tokens"


def _next_attempt(phase: str, smaller: Resolved) -> str:
    if phase in EVALUATION:
        return f"The job is retried automatically with evaluation batches of {smaller.eval_batch_size} rows."
    rows = smaller.rows_per_step
    return (
        f"The job is retried automatically with batch_size {smaller.batch_size} and gradient_accumulation "
        f"{smaller.gradient_accumulation}: a step still takes {rows} rows."
    )


def _advice(phase: str, spec: JobSpec, resolved: Resolved | None) -> str:
    if phase not in TRAINING | EVALUATION or resolved is None:
        return "Use a smaller model or fewer rows (data.subset), or a worker with more memory."
    batches = _smaller_training(spec, resolved) if phase in TRAINING else _smaller_evaluation(resolved)
    return f"{batches} Otherwise lower tokenization.max_length, set training.gradient_checkpointing, or use a smaller model."


def _smaller_training(spec: JobSpec, resolved: Resolved) -> str:
    if resolved.batch_size == 1:
        return "A forward pass already takes only one row."
    passes = spec.training.gradient_accumulation * 2
    if resolved.batch_tokens is not None and resolved.batch_tokens // 2 < spec.tokenization.max_length:
        return "training.batch_tokens cannot be halved: it must be at least tokenization.max_length."
    if resolved.batch_tokens is not None:
        return (
            f"Set training.batch_tokens to {resolved.batch_tokens // 2} with training.gradient_accumulation {passes}, "
            "which learns nearly the same."
        )
    return (
        f'Set training.batch_size to "auto", which finds what fits, or to {resolved.batch_size // 2} '
        f"with training.gradient_accumulation {passes}, which learns the same."
    )


def _smaller_evaluation(resolved: Resolved) -> str:
    if resolved.eval_batch_size == 1:
        return "Evaluation already takes only one row at a time."
    return f'Set evaluation.batch_size to "auto", which finds what fits, or to {resolved.eval_batch_size // 2}.'
