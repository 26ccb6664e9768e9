"""The seeds of tests: one number moves all of them, so that a test can be shown to pass from any.

`TUNESMITH_TEST_SEED=7 make test SELECT=numeric` gives tiny models other weights, and jobs that name no seed another one.
"""

import os

OFFSET = int(os.environ.get("TUNESMITH_TEST_SEED", "0"))


def seed(usual: int) -> int:
    """The seed to use in this run, where `usual` is what it is without an offset."""
    return usual + OFFSET


def move_default() -> None:
    """Move the seed of jobs that name none, in this process and in those that are forked from it."""
    if OFFSET:
        from app.specs import JobSpec
        from app.specs.training import Training

        Training.model_fields["seed"].default = seed(Training.model_fields["seed"].default)
        Training.model_rebuild(force=True)
        JobSpec.model_rebuild(force=True)
