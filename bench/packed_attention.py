"""A training step of packed rows: the attention of each row alone, against one mask that keeps the rows apart.

The model has the width of SmolLM 135M, six layers and random weights, on which the time does not depend. Rows of
50 to 400 tokens fill sequences of 1,024.
"""

import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from worker.training.models import attention  # noqa: E402 - found by the line above
from worker.training.models.packed_attention import BOUNDARIES, boundaries_of  # noqa: E402

LENGTHS = (400, 200, 150, 120, 100, 54)
SEQUENCES, WIDTH, ROUNDS = 2, 1024, 3
SIZES = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 8192,
}


def main() -> None:
    """Print the seconds of a step of each kind, the fastest of a few, and their ratio."""
    attention.register()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).to(device, dtype)
    positions = [[place for length in LENGTHS for place in range(length)]] * SEQUENCES
    inputs = {
        "input_ids": torch.randint(SIZES["vocab_size"], (SEQUENCES, WIDTH), device=device),
        "position_ids": torch.tensor(positions, device=device),
        "use_cache": False,
    }
    alone = {**inputs, BOUNDARIES: boundaries_of(positions, WIDTH).to(device)}
    _seconds(model, inputs)
    _seconds(model, alone)
    taken = [(_seconds(model, inputs), _seconds(model, alone)) for _ in range(ROUNDS)]
    masked, single = (min(seconds) for seconds in zip(*taken, strict=True))
    print(f"one mask {masked:.3f} s   each row alone {single:.3f} s   ratio {masked / single:.2f}   on {device}")


def _seconds(model: torch.nn.Module, inputs: dict[str, object]) -> float:
    began = time.perf_counter()
    model(**inputs).logits.float().pow(2).mean().backward()
    model.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
