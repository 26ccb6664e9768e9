"""what a key may do, until when, the limits of projects, and what was deleted or must stay.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Earlier keys could do everything, and still can. Services of the version before create keys without these.
    op.add_column("api_keys", sa.Column("role", sa.String(10), nullable=False, server_default="admin"))
    op.add_column("api_keys", sa.Column("priority_ceiling", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("expires_at", sa.Double(), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.Double(), nullable=True))
    kind = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    op.add_column("projects", sa.Column("limits", kind, nullable=True))
    for name in ("deleted_at", "purged_at", "pinned_at"):
        op.add_column("jobs", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("artifacts", sa.Column("pinned_at", sa.Double(), nullable=True))
    unpurged = sa.text("deleted_at IS NOT NULL AND purged_at IS NULL")
    op.create_index("ix_jobs_unpurged", "jobs", ["deleted_at"], postgresql_where=unpurged, sqlite_where=unpurged)
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    with op.batch_alter_table("webhooks") as table:
        table.alter_column("secret", type_=sa.Text(), existing_type=sa.String(100), existing_nullable=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("project_id", sa.String(40), sa.ForeignKey("projects.id"), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("method", sa.String(10), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
    )
    op.create_index("ix_audit_project_id_id", "audit", ["project_id", "id"])


def downgrade() -> None:
    op.drop_table("audit")
    # Encrypted secrets are longer than the column was, so it stays long.
    op.drop_index("ix_jobs_finished_at", "jobs")
    op.drop_index("ix_jobs_unpurged", "jobs")
    # Not in batch mode, which makes a new table and so loses the triggers of `jobs`.
    _drop("artifacts", "pinned_at")
    _drop("jobs", "pinned_at", "purged_at", "deleted_at")
    _drop("projects", "limits")
    _drop("api_keys", "last_used_at", "expires_at", "priority_ceiling", "role")


def _drop(table: str, *columns: str) -> None:
    for column in columns:
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
