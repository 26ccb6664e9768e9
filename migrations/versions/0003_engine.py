"""the engine of a job, which only some workers offer.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default, because services of the version before go on to insert jobs without it.
    op.add_column("jobs", sa.Column("engine", sa.String(length=20), nullable=False, server_default="trainer"))
    jobs = sa.table("jobs", sa.column("engine"), sa.column("spec", sa.JSON()))
    engine = jobs.c.spec["training"]["engine"].as_string()
    op.execute(sa.update(jobs).values(engine=engine).where(engine.is_not(None)))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.drop_column("engine")
