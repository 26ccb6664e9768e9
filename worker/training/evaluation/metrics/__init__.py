"""The metrics a job can ask for: subclasses of `evaluate.Metric`, made directly, never fetched."""

from worker.training.evaluation.metrics.table import Metrics, compute, greater_is_better

__all__ = ["Metrics", "compute", "greater_is_better"]
