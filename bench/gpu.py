"""Whole jobs on a GPU against scripts on the same GPU: BERT-base, and a decoder of 135 M parameters with packed rows.

    tutorial    transformers' Trainer as in its tutorial, in fp32, every row padded to max_length
    tuned       Trainer with bf16, batches grouped by length, a fused optimizer and compiled layers
    ours        `POST /v1/jobs` to `succeeded`, with the defaults, on a worker that is up

Prints the time of each and its ratio to ours, and the share of the measured matrix rate that our training steps reach: 6 operations
for each parameter and token, padding not counted. Needs no network. `--small` runs the same with tiny models, also on a CPU.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench")]

from gpu_models import write_models, write_rows  # noqa: E402 - found by the line above
from peer_script import run_script  # noqa: E402
from service import Service, running_service  # noqa: E402

ROWS, SMALL_ROWS = (4000, 400), (64, 16)
TOKENS = 512
BATCH = 32
MATRIX, PRODUCTS = 8192, 20
TASKS = {"encoder": "text-classification", "decoder": "causal-lm"}


def main() -> None:
    """Run all for both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--models", choices=TASKS, nargs="+", default=list(TASKS))
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.small:
        raise SystemExit("there is no GPU here; --small shows on a CPU that everything runs")
    rate = _matrix_rate()
    print(f"{_device()}: {rate / 1e12:.2f} T operations/s in products of matrices")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder / "models", small=arguments.small)
        files = write_rows(folder, *(SMALL_ROWS if arguments.small else ROWS))
        for kind in arguments.models:
            _compare(kind, folder, files[kind], rate)


def _compare(kind: str, folder: Path, files: dict[str, Path], rate: float) -> None:
    with running_service(folder / "models") as service:
        seconds, job = _ours(service, kind, files)
    print(f"{kind}: {job['resolved']['rows']}, {job['resolved']['precision']}")
    reached = _operations(folder / "models" / kind, files["train"]) / _step_seconds(job) / rate
    print(f"  ours      {seconds:7.1f} s    1.00 times ours   {reached:6.1%} of the matrix rate")
    print(f"            attention {job['resolved']['attention']}")
    for kernel in job["resolved"]["kernels"]:
        print(f"            {kernel['name']}: {'yes' if kernel['used'] else 'no'}, {kernel['reason']}")
    for script in ("tuned", "tutorial"):
        theirs, _ = run_script(
            "gpu", kind, script, folder / "models" / kind, files["train"], files["eval"], folder / f"{kind}-{script}"
        )
        print(f"  {script:9} {theirs:7.1f} s   {theirs / seconds:5.2f} times ours")


def _ours(service: Service, kind: str, files: dict[str, Path]) -> tuple[float, dict[str, Any]]:
    data = {split: {"dataset": service.upload(path)} for split, path in files.items()}
    task: dict[str, Any] = {"type": TASKS[kind], **({"packing": True} if kind == "decoder" else {})}
    training = {"epochs": 1, "batch_size": BATCH}
    body = {"task": task, "model": f"local:{kind}", "tokenization": {"max_length": TOKENS}}
    # The worker is up when it has run a job; a new one still imports torch.
    service.run({**body, "data": {"train": data["eval"], "eval": None}, "training": {"max_steps": 1}})
    began = time.perf_counter()
    job = service.run({**body, "data": data, "training": training})
    return time.perf_counter() - began, job


def _step_seconds(job: dict[str, Any]) -> float:
    return job["preflight"]["steps"]["step_seconds"] * job["resolved"]["total_steps"]


def _operations(model: Path, train: Path) -> float:
    """Forward and backward passes over the rows, 6 operations for each parameter and token (Kaplan et al., 2020)."""
    parameters = (model / "model.safetensors").stat().st_size / 4
    # Each word is a token.
    tokens = sum(min(TOKENS, len(line.split())) for line in train.read_text().splitlines())
    return 6 * parameters * tokens


def _matrix_rate() -> float:
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    size = MATRIX if device == "cuda" else MATRIX // 8
    one = torch.randn(size, size, device=device, dtype=dtype)
    torch.matmul(one, one)
    _wait()
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        torch.matmul(one, one)
    _wait()
    return PRODUCTS * 2 * size**3 / (time.perf_counter() - began)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
