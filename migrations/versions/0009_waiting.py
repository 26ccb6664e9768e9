"""what jobs need of a worker, and the queue as an index.

Revision ID: 0009
Revises: 0008
"""

import json
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from app.jobs.needs import needs_of

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WAITING = ("needs", "project_id", sa.text("priority DESC"), "queued_at", "id")


def upgrade() -> None:
    # Without a default: services of the version before go on to insert jobs, and a claim says what those need.
    op.add_column("jobs", sa.Column("needs", sa.String(32), nullable=True))
    _fill()
    for name, columns, status in (
        ("ix_jobs_waiting", WAITING, "queued"),
        ("ix_jobs_running", ("project_id",), "running"),
    ):
        where = sa.text(f"status = '{status}'")
        op.create_index(name, "jobs", list(columns), postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    op.drop_index("ix_jobs_running", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("needs")


def _fill() -> None:
    """Jobs that have ended are never queued again."""
    names = ("queue", "engine", "features", "needs", "status")
    jobs = sa.table("jobs", *(sa.column(name, sa.String()) for name in names))
    unfinished = jobs.c.status.in_(["queued", "running", "paused"])
    # Equal lists of features are equal texts, because each version writes them sorted.
    features = sa.cast(jobs.c.features, sa.Text())
    kinds = op.get_bind().execute(sa.select(jobs.c.queue, jobs.c.engine, features).where(unfinished).distinct())
    for queue, engine, text in kinds.tuples().all():
        own = features.is_(None) if text is None else features == text
        op.execute(
            sa.update(jobs)
            .where(unfinished, jobs.c.queue == queue, jobs.c.engine == engine, own)
            .values(needs=needs_of(queue, engine, _read(text)))
        )


def _read(text: str | None) -> Sequence[str] | None:
    return None if text is None else json.loads(text)
