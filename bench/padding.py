"""What share of the tokens of an epoch is padding, by how rows are batched: at most so much could a forward pass without padding gain.

The rows are those of `whole_job.py`, in batches of 8. No model is trained.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), str(ROOT / "bench")]

import reviews  # noqa: E402 - found by the line above
from whole_job import KINDS, TOKENS, write_rows  # noqa: E402

from worker.training.loop.batching import by_length, by_tokens  # noqa: E402
from worker.training.planning.token_batches import tiers  # noqa: E402

ROWS, LIMIT, EPOCHS = 8, 4096, 5


def main() -> None:
    """Print the shares, averaged over epochs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = AutoTokenizer.from_pretrained(reviews.models_dir(folder / "models") / "all-minilm-l6-v2")
        print(f"{'rows':8} {'random':>8} {'length':>8} {'batch_tokens':>13} {'their passes':>13}")
        for kind in KINDS:
            texts = pd.read_csv(write_rows(kind, folder)["train"])["text"].tolist()
            tokens = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"]]
            found = [_shares(tokens, np.random.default_rng(epoch)) for epoch in range(EPOCHS)]
            anywhere, length, counted, passes = np.mean(found, axis=0)
            print(f"{kind:8} {anywhere:8.1%} {length:8.1%} {counted:13.1%} {passes:13.0f}")


def _shares(tokens: list[int], draw: np.random.Generator) -> tuple[float, float, float, int]:
    counted = by_tokens(tokens, tiers(tokens, LIMIT, 1), draw, is_longest_first=False)
    anywhere, length = (
        [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
        for order in (draw.permutation(len(tokens)).tolist(), by_length(tokens, ROWS, draw))
    )
    return _padding(anywhere, tokens), _padding(length, tokens), _padding(counted, tokens), len(counted)


def _padding(passes: list[list[int]], tokens: list[int]) -> float:
    padded = sum(len(rows) * max(tokens[place] for place in rows) for rows in passes)
    return 1 - sum(tokens) / padded


if __name__ == "__main__":
    main()
