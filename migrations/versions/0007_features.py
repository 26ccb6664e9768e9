"""the features that a job uses, and those that a worker knows.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("jobs", "workers")


def upgrade() -> None:
    # NULL for what is there already, and for what the version before goes on to insert: then the engine alone decides.
    kind = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    for table in TABLES:
        op.add_column(table, sa.Column("features", kind, nullable=True))


def downgrade() -> None:
    for name in TABLES:
        with op.batch_alter_table(name) as table:
            table.drop_column("features")
