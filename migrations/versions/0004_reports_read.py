"""how far the reports of an attempt have been read, so that none is recorded twice.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default, because services of the version before go on to insert jobs without it.
    op.add_column("jobs", sa.Column("reports_read", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.drop_column("reports_read")
