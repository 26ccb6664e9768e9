"""Where a job's rows come from, and which column has which role."""

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, StringConstraints, Tag

from app.specs.strict import Strict

INLINE_ROW_LIMIT = 10_000

RoleName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class UploadedData(Strict):
    """A dataset that was uploaded to this service."""

    dataset: str = Field(pattern=r"^ds_[0-9a-z]{26}$", description="The id of an uploaded dataset, `ds_…`.")


class HubData(Strict):
    """A dataset on the Hugging Face Hub, or an operator's mirror of it."""

    hub: str = Field(
        pattern=r"^[\w.-]+(/[\w.-]+)?$",
        max_length=200,
        description="The dataset's id on the hub, such as `yelp_review_full`.",
    )
    config: str | None = Field(
        default=None, max_length=200, description="The dataset's configuration, if it has several."
    )
    split: str = Field(
        default="train",
        max_length=100,
        description="The split to read, such as `train`, or a slice or sum of splits, such as `train[:10%]` or "
        "`train+test`.",
    )
    revision: str | None = Field(default=None, max_length=200, description="A branch, tag or commit of the dataset.")
    streaming: bool = Field(
        default=False,
        description="For `train`: read rows when they are needed instead of all before the first step. Requires "
        "`training.max_steps`, which then also defines an epoch, and `task.labels` if the dataset "
        "does not name its classes.",
    )
    shuffle_buffer: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="With `streaming`: the number of rows in the shuffle buffer, from which the next row is "
        "drawn by `training.seed`.",
    )


class InlineData(Strict):
    """Rows in the spec itself."""

    rows: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=INLINE_ROW_LIMIT,
        description="The rows, each an object of column name to value; 1 MiB at most.",
    )


def _kind(value: Any) -> str | None:
    if isinstance(value, Strict):
        return f"({next(iter(type(value).model_fields))})"
    if isinstance(value, dict):
        named = [key for key in ("dataset", "hub", "rows") if key in cast("dict[str, Any]", value)]
        return f"({named[0]})" if named else None
    return None


DataSource = Annotated[
    Annotated[UploadedData, Tag("(dataset)")] | Annotated[HubData, Tag("(hub)")] | Annotated[InlineData, Tag("(rows)")],
    Discriminator(
        _kind,
        custom_error_type="data_source",
        custom_error_message="must be an object with one of 'dataset' (an uploaded id), 'hub' (a hub id) or 'rows'",
    ),
]
"""One of: an uploaded dataset, a hub dataset, inline rows."""


class Subset(Strict):
    """How many rows of each split to use, selected after a seeded shuffle."""

    train: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="Rows of train to use. Without it: all."
    )
    eval: int | None = Field(default=None, ge=1, le=1_000_000_000, description="Rows of eval to use. Without it: all.")
    test: int | None = Field(default=None, ge=1, le=1_000_000_000, description="Rows of test to use. Without it: all.")
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="The seed of the shuffle.")


class Data(Strict):
    """The splits of a job and how to read them."""

    train: DataSource = Field(description="What to train on.")
    eval: DataSource | None = Field(
        default=None, description="What to evaluate on during training, to select the best model."
    )
    test: DataSource | None = Field(
        default=None, description="What to evaluate the published model on, once, at the end."
    )
    columns: dict[RoleName, ColumnName] = Field(
        default_factory=dict,
        max_length=20,
        description='Which column has which role, such as `{"text": "review", "label": "stars"}`. '
        "A role that is not named here reads the column with its own name.",
    )
    subset: Subset = Field(default_factory=Subset, description="How many rows of each split to use.")
    eval_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Without `eval`: the share of train to hold out for evaluation, drawn by `subset.seed`.",
    )
    on_bad_row: Literal["fail", "skip"] = Field(
        default="fail",
        description="What happens to an unusable row: `fail` ends the job and names the row, `skip` leaves it "
        "out and counts it.",
    )
