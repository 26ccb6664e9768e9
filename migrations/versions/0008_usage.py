"""when a job first began, and how long it has waited, run and held GPUs.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SUMS = ("queued_seconds", "running_seconds", "gpu_seconds")
MOMENTS = ("waiting_since", "first_started_at")


def upgrade() -> None:
    # With defaults, because services of the version before go on to insert jobs without these.
    for name in MOMENTS:
        op.add_column("jobs", sa.Column(name, sa.Double(), nullable=True))
    for name in SUMS:
        op.add_column("jobs", sa.Column(name, sa.Double(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("gpus", sa.Integer(), nullable=False, server_default="0"))
    _count_from_events()


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        for name in (*MOMENTS, *SUMS, "gpus"):
            table.drop_column(name)


def _count_from_events() -> None:
    jobs = sa.table("jobs", *map(sa.column, ("id", *MOMENTS, *SUMS, "gpus")), sa.column("resolved", sa.JSON()))
    events = sa.table("events", *map(sa.column, ("job_id", "seq", "type", "created_at")), sa.column("data", sa.JSON()))
    status = events.c.data["to"].as_string().label("status")
    entered = events.c.created_at.label("entered")
    left = sa.func.lead(events.c.created_at).over(order_by=events.c.seq).label("left")
    spans = (
        sa.select(status, entered, left)
        .where(events.c.job_id == jobs.c.id, events.c.type == "status")
        .correlate(jobs)
        .subquery()
    )

    def of(name: str, column: sa.ColumnElement[float]) -> sa.ScalarSelect[float]:
        return sa.select(column).select_from(spans).where(spans.c.status == name).scalar_subquery()

    seconds = sa.func.coalesce(sa.func.sum(spans.c.left - spans.c.entered), 0.0)
    op.execute(
        sa.update(jobs).values(
            waiting_since=of("queued", sa.func.max(spans.c.entered)),
            first_started_at=of("running", sa.func.min(spans.c.entered)),
            queued_seconds=of("queued", seconds),
            running_seconds=of("running", seconds),
        )
    )
    on_gpu = jobs.c.resolved["device"].as_string() == "cuda"
    op.execute(sa.update(jobs).where(on_gpu).values(gpu_seconds=jobs.c.running_seconds, gpus=1))
