"""Signs in the numbers of a run that its model did not learn: what to warn about when training has ended."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

Series = Mapping[str, Sequence[float]]
FEWEST_LOSSES = 8
"""Fewer logged losses show no trend."""
ROSE = 1.5
"""A loss that is so many times its start has risen."""
FLAT = 0.005
"""A loss that changed by a smaller fraction is flat."""
CONVERGED = 0.01
"""A smaller loss has nothing left to learn."""


def diagnose(series: Series, metrics: Mapping[str, float | None], chance: Mapping[str, float]) -> list[str]:
    """Warnings for people, each with advice.

    `series` are the logged values by name in the order of the steps. `metrics` are those of the published model, `chance`
    those of a model that ignores its inputs. In `chance`, greater is better.
    """
    return [*_of_gradients(series), *_of_losses(series), *_of_chance(metrics, chance)]


def _of_gradients(series: Series) -> list[str]:
    norms = series.get("grad_norm", ())
    if norms and not any(norms):
        return ["every logged gradient norm is 0, so the model did not learn; check which weights the method trains"]
    return []


def _of_losses(series: Series) -> list[str]:
    found: list[str] = []
    evaluated = series.get("eval_loss", ())
    if evaluated and evaluated[-1] > ROSE * min(evaluated) and evaluated[-1] > CONVERGED:
        found.append(
            f"eval_loss rose from {min(evaluated):.4g} to {evaluated[-1]:.4g}; lower training.learning_rate, or train less"
        )
    losses = series.get("loss", ())
    if len(losses) < FEWEST_LOSSES:
        return found
    part = len(losses) // 4
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    if last > ROSE * first and last > CONVERGED:
        found.append(f"the training loss rose from {first:.4g} to {last:.4g}; lower training.learning_rate")
    elif first > CONVERGED and abs(last - first) < FLAT * first and not _is_noisy(losses, first):
        found.append(
            f"the training loss did not change ({first:.4g} to {last:.4g}); raise training.learning_rate, or check the labels"
        )
    return found


def _is_noisy(losses: Sequence[float], first: float) -> bool:
    # Where single batches differ far more than the means, equal means say little.
    return max(abs(after - before) for before, after in pairwise(losses)) > 0.5 * first


def _of_chance(metrics: Mapping[str, float | None], chance: Mapping[str, float]) -> list[str]:
    found: list[str] = []
    for name, floor in chance.items():
        value = metrics.get(name)
        if value is not None and value <= floor:
            found.append(f"{name} is {value:.4g}, no better than a model that ignores its inputs ({floor:.4g})")
    return found
