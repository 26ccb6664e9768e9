"""When memory ran out: how that is known, what the user is told, and what is tried with less.

A training process that is killed is taken for out of memory only where the kernel counted such a kill in its control
group, or where its own last words say so; any other kill is a crash.
"""

from typing import Any

from app.specs import JobSpec, Resolved
from worker.memory import says_out_of_memory
from worker.supervise import Ending
from worker.training.errors import OutOfMemory, ProcessDied

GIB = 1024**3


def is_why(ending: Ending) -> bool:
    """Whether the process ended because it got no more memory."""
    code = (ending.result or {}).get("error", {}).get("code")
    if ending.result is not None and code != ProcessDied.code:
        return code == OutOfMemory.code
    return ending.killed_for_memory or says_out_of_memory(ending.log_tail)


def smaller(spec: JobSpec, resolved: Resolved, phase: str) -> Resolved | None:
    """Half the rows a forward pass where the spec leaves their number open; None where that cannot help.

    In training twice the passes make a step, so that its rows, and what is learned from them, stay the same.
    """
    if phase == "training" and spec.training.batch_size == "auto" and resolved.batch_size > 1:
        halved = {
            "batch_size": resolved.batch_size // 2,
            "gradient_accumulation": resolved.gradient_accumulation * 2,
        }
        return resolved.model_copy(update=halved)
    if phase == "evaluating" and spec.evaluation.batch_size == "auto" and resolved.eval_batch_size > 1:
        return resolved.model_copy(update={"eval_batch_size": resolved.eval_batch_size // 2})
    return None


def error(ending: Ending, spec: JobSpec, resolved: Resolved | None, tried_next: Resolved | None) -> dict[str, Any]:
    """The job's `error`: what was being done, the peak in bytes, and what to change."""
    said: dict[str, Any] = (ending.result or {}).get("error", {})
    peak = said.get("details", {}).get("peak_bytes") or ending.peak_bytes
    settled = (
        resolved.model_dump(include={"batch_size", "gradient_accumulation", "eval_batch_size", "max_length", "device"})
        if resolved
        else {}
    )
    held = f" It held {peak / GIB:.2f} GiB at its peak." if peak else ""
    return {
        "code": OutOfMemory.code,
        "message": f"Memory ran out while {ending.phase}{_with(ending.phase, resolved)}.{held}",
        "hint": _hint(ending.phase, spec, resolved, tried_next),
        "details": {"phase": ending.phase, "peak_bytes": peak, "said": said.get("message"), **settled},
        "log_tail": ending.log_tail,
    }


def _with(phase: str, resolved: Resolved | None) -> str:
    if resolved is None:
        return ""
    if phase == "evaluating":
        return f" with {resolved.eval_batch_size} rows a forward pass of up to {resolved.max_length} tokens"
    if phase == "training":
        return f" with {resolved.batch_size} rows a forward pass of up to {resolved.max_length} tokens"
    return ""


def _hint(phase: str, spec: JobSpec, resolved: Resolved | None, tried_next: Resolved | None) -> str:
    if tried_next is not None:
        if phase == "evaluating":
            return f"It is tried again by itself with evaluation batches of {tried_next.eval_batch_size} rows."
        rows = tried_next.batch_size * tried_next.gradient_accumulation
        return (
            f"It is tried again by itself with batch_size {tried_next.batch_size} and gradient_accumulation "
            f"{tried_next.gradient_accumulation}: a step still takes {rows} rows."
        )
    if phase not in ("training", "evaluating") or resolved is None:
        return "Use a smaller model or fewer rows (data.subset), or a worker with more memory."
    return " ".join(
        (
            _smaller_batches(phase, spec, resolved),
            "Otherwise lower tokenization.max_length, set training.gradient_checkpointing, or take a smaller model.",
        )
    )


def _smaller_batches(phase: str, spec: JobSpec, resolved: Resolved) -> str:
    if phase == "evaluating":
        if resolved.eval_batch_size == 1:
            return "Evaluation already takes one row at a time."
        return f'Set evaluation.batch_size to "auto", which finds what fits, or to {resolved.eval_batch_size // 2}.'
    if resolved.batch_size == 1:
        return "A forward pass already takes one row."
    passes = spec.training.gradient_accumulation * 2
    return (
        f'Set training.batch_size to "auto", which finds what fits, or to {resolved.batch_size // 2} '
        f"with training.gradient_accumulation {passes}, which learns the same."
    )
