"""Resolves once what the spec leaves open: device, precision, batch sizes, length, steps."""

import math
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from app.specs import JobSpec, Resolved
from app.specs.job import Tokenization
from app.specs.methods import GPU_METHODS
from app.specs.training import AUTO_BATCH_SIZE, Training
from worker.training.errors import DataChanged, GpuMissing, PrecisionUnsupported
from worker.training.inputs.data import Data
from worker.training.planning.token_batches import Tier, tiers
from worker.training.reports import Reporter
from worker.training.request import TrainingRequest

AUTO_EVAL_BATCH = {"cpu": 32, "cuda": 128}
PACKAGES = (
    "tunesmith",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "evaluate",
    "scikit-learn",
    "numpy",
)


def resolve(
    request: TrainingRequest,
    data: Data,
    model_commit: str | None,
    token_limit: int | None,
    engine_versions: dict[str, str],
    report: Reporter,
) -> Resolved:
    """Resolve the run, or check that what an earlier attempt resolved still holds.

    `token_limit` is the maximum number of tokens that the model takes, None if it has no limit.
    Raises GpuMissing, PrecisionUnsupported or DataChanged.
    """
    if request.resolved is not None:
        return _still_holds(request.resolved, data)
    resolved = _first_resolution(request.spec, data, model_commit, token_limit, _versions() | engine_versions)
    asked = request.spec.tokenization.max_length
    # A stored spec has every default written out, so only its value distinguishes a default from a request.
    if resolved.max_length < asked != Tokenization.model_fields["max_length"].default:
        report.note(f"max_length was lowered to {resolved.max_length}, the maximum of the model")
    report.resolved(resolved.model_dump(mode="json"))
    return resolved


def count_steps(resolved: Resolved, spec: JobSpec, tokens: list[int], report: Reporter) -> Resolved:
    """Resolve the number of steps again, before the first one, for sequences of so many tokens each.

    Train may make more or fewer sequences than it has rows, and batches of tokens depend on their lengths.
    """
    total = _total_steps(spec, steps_per_epoch(resolved, len(tokens), tiers_of(resolved, tokens)))
    if total == resolved.total_steps:
        return resolved
    counted = resolved.model_copy(update={"total_steps": total})
    report.resolved(counted.model_dump(mode="json"))
    return counted


def steps_per_epoch(resolved: Resolved, rows: int, tiers: list[Tier]) -> int:
    """Optimizer steps of one pass over train; the last may be of fewer rows."""
    if tiers:
        return sum(tier.steps for tier in tiers)
    return max(1, math.ceil(math.ceil(rows / resolved.batch_size) / resolved.gradient_accumulation))


def tiers_of(resolved: Resolved, tokens: list[int]) -> list[Tier]:
    """How sequences of so many tokens each share forward passes, if tokens are counted. Otherwise none."""
    if resolved.batch_tokens is None:
        return []
    return tiers(tokens, resolved.batch_tokens, resolved.gradient_accumulation)


def _first_resolution(
    spec: JobSpec, data: Data, model_commit: str | None, token_limit: int | None, versions: dict[str, str]
) -> Resolved:
    training, asked = spec.training, spec.tokenization.max_length
    device = _device(spec)
    max_length = asked if token_limit is None else min(asked, token_limit)
    eval_batch = AUTO_EVAL_BATCH[device] if spec.evaluation.batch_size == "auto" else spec.evaluation.batch_size
    resolved = Resolved(
        labels=data.labels,
        precision=_precision(training.precision, device),
        batch_size=_batch_size(training, max_length),
        batch_tokens=training.batch_tokens,
        gradient_accumulation=training.gradient_accumulation,
        batching=spec.task.batchings[0] if training.batching == "auto" else training.batching,
        eval_batch_size=eval_batch,
        device=device,
        max_length=max_length,
        total_steps=0,
        metrics=data.metrics,
        best_by=(spec.evaluation.best_by or data.metrics[0]) if spec.evaluates else None,
        model_commit=model_commit,
        datasets=data.hashes,
        dataset_commits=data.commits,
        rows={split: len(table) for split, table in data.splits.items() if table.stream is None},
        skipped_rows=data.skipped,
        versions=versions,
    )
    epoch = steps_per_epoch(resolved, len(data.splits["train"]), [])
    return resolved.model_copy(update={"total_steps": _total_steps(spec, epoch)})


def _batch_size(training: Training, max_length: int) -> int:
    if training.batch_tokens is not None:
        return training.batch_tokens // max_length
    return AUTO_BATCH_SIZE if training.batch_size == "auto" else training.batch_size


def _total_steps(spec: JobSpec, epoch: int) -> int:
    return spec.training.max_steps or math.ceil(spec.training.epochs * epoch)


def _still_holds(resolved: Resolved, data: Data) -> Resolved:
    if resolved.device == "cuda" and not torch.cuda.is_available():
        raise GpuMissing("the job began on a GPU, and this worker has none")
    for split, digest in resolved.datasets.items():
        if data.hashes.get(split) != digest:
            raise DataChanged(f"the rows of {split} are not those of the first attempt")
    return resolved


def _device(spec: JobSpec) -> str:
    if not spec.may_use_gpu:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if spec.resources.gpus == 1 or spec.training.method.type in GPU_METHODS:
        raise GpuMissing("the job needs a GPU, and this worker has none")
    return "cpu"


def _precision(asked: str, device: str) -> str:
    if asked == "fp32":
        return asked
    quick = _bf16_is_quick(device)
    if asked == "auto":
        # On CPUs with AMX bf16 was 1.2 to 1.5 times as fast. But a retry may land on a CPU without, where it
        # is a hundred times slower, and the precision is never resolved again. So only GPUs use it by default.
        return "bf16" if device == "cuda" and quick else "fp32"
    if asked == "bf16" and not quick:
        raise PrecisionUnsupported(f"this worker's {device} computes bf16 only by emulation, far slower than fp32")
    if asked == "fp16" and device == "cpu":
        raise PrecisionUnsupported("fp16 needs a GPU: its loss scaling does not work on a CPU")
    return asked


def _bf16_is_quick(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Run from a checkout, our own package is not installed.
            continue
    return found
