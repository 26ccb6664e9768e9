"""the name of a dataset, and the files that it was made of.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Both may be null, because services of the version before go on to insert datasets without them.
    op.add_column("datasets", sa.Column("name", sa.String(length=200), nullable=True))
    files = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    op.add_column("datasets", sa.Column("files", files, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("datasets") as table:
        table.drop_column("files")
        table.drop_column("name")
