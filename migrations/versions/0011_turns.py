"""work that one of several processes does.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NAMES = ("sweep", "sweep_without_reclaims", "collect_garbage")


def upgrade() -> None:
    turns = op.create_table(
        "turns",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("due_at", sa.Double(), nullable=False),
    )
    op.bulk_insert(turns, [{"name": name, "due_at": 0.0} for name in NAMES])


def downgrade() -> None:
    op.drop_table("turns")
