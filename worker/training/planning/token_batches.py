"""Forward passes of at most so many padded tokens (`training.batch_tokens`): as many rows as their longest one leaves room for.

All rows of a tier could share a pass with any others of it. So an epoch may take them in any order, and all epochs have
equally many steps. From tier to tier the rows of a pass increase by a quarter at most. With `batch_tokens` 4,096:

    tokens of the longest row    512 to 410   409 to 342   341 to 293   ...   22
    rows of a pass                        8           10           12   ...  160

A tier takes the first rows of the next one where it lacks some for a whole step. Those are shorter, so they fit. Only the
last step of the last tier may have fewer rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_ROWS = 4096
"""As with `training.batch_size`."""
STEPS_OF_A_DOUBLING = 4


@dataclass(frozen=True)
class Tier:
    """Rows of similar length, of which equally many share a pass."""

    rows: int
    rows_of_pass: int
    rows_of_step: int

    @property
    def passes(self) -> int:
        """Forward passes over its rows."""
        return math.ceil(self.rows / self.rows_of_pass)

    @property
    def steps(self) -> int:
        """Optimizer steps over its rows."""
        return math.ceil(self.rows / self.rows_of_step)


def tiers(tokens: Sequence[int], limit: int, accumulation: int) -> list[Tier]:
    """The tiers of rows of so many tokens each, longest first, for passes of at most `limit` tokens with the padding.

    A row that is longer than the limit has a pass of its own.
    """
    longest_first = np.sort(np.asarray(tokens))[::-1].tolist()
    found, start = list[Tier](), 0
    while start < len(longest_first):
        rows = _rows_of_pass(limit // max(1, longest_first[start]))
        size = rows * accumulation
        end = start + size
        while end < len(longest_first) and _rows_of_pass(limit // max(1, longest_first[end])) == rows:
            end += size
        end = min(end, len(longest_first))
        found.append(Tier(end - start, rows, size))
        start = end
    return found


def _rows_of_pass(fitting: int) -> int:
    # Few different numbers, so that many rows share a tier: 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, ...
    doubling = max(0, fitting.bit_length() - STEPS_OF_A_DOUBLING.bit_length())
    return min(MOST_ROWS, max(1, fitting >> doubling << doubling))
