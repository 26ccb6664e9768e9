"""One label for each text (or pair of texts)."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from app.specs.strict import Strict

MetricName = Literal[
    "accuracy",
    "f1",
    "f1_micro",
    "f1_weighted",
    "precision",
    "precision_micro",
    "precision_weighted",
    "recall",
    "recall_micro",
    "recall_weighted",
]
"""Metrics a classifier can be judged by. Without a suffix the average is macro."""


class TextClassification(Strict):
    """Sort each text into one of a fixed set of classes."""

    required_roles: ClassVar[tuple[str, ...]] = ("text", "label")
    optional_roles: ClassVar[tuple[str, ...]] = ("text_pair",)
    default_metrics: ClassVar[tuple[MetricName, ...]] = ("accuracy", "f1")

    type: Literal["text-classification"] = Field(description="The task type.")
    problem: Literal["single-label"] = Field(
        default="single-label", description="How many classes a text has: exactly one (`single-label`)."
    )
    labels: list[str] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="The class names in the order of their ids. Without it they are learned from the train split: "
        "by number where all labels are numbers, else in alphabetical order. With it, whole-number label cells "
        "that are not themselves names are taken as ids into this list.",
    )

    @field_validator("labels")
    @classmethod
    def _labels_are_distinct(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None and len(set(labels)) != len(labels):
            raise ValueError("a class is named twice")
        if labels is not None and any(not name.strip() for name in labels):
            raise ValueError("a class name is empty")
        return labels
