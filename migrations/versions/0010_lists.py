"""an index for every filter of the lists, and for what sweeps look for.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

LISTS = {
    "ix_jobs_project_id_created_at": ["project_id", "created_at", "id"],
    "ix_jobs_project_id_status_created_at": ["project_id", "status", "created_at", "id"],
    "ix_jobs_project_id_task_created_at": ["project_id", "task", "created_at", "id"],
    "ix_jobs_project_id_name_created_at": ["project_id", "name", "created_at", "id"],
    "ix_jobs_status_queued_at": ["status", "queued_at"],
}
SWEEPS = {
    "ix_jobs_deadline_at": ("deadline_at", "status IN ('queued', 'running')"),
    "ix_jobs_available_at": ("available_at", "status = 'queued'"),
}
PAIRS = {"postgresql": "jsonb_each_text", "sqlite": "json_each"}
INSERT = (
    "INSERT INTO job_metadata (project_id, key, value, created_at, job_id) "
    "SELECT {job}.project_id, pair.key, pair.value, {job}.created_at, {job}.id FROM {source}"
)
TRIGGERS = {
    "postgresql": (
        "CREATE FUNCTION job_metadata_of_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {insert}; RETURN NULL; END $$",
        "CREATE TRIGGER job_metadata_of_job AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION job_metadata_of_job()",
    ),
    "sqlite": ("CREATE TRIGGER job_metadata_of_job AFTER INSERT ON jobs BEGIN {insert}; END",),
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # At once, because a lock that grows meets the locks of running services in the other order: a deadlock.
        op.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    for name, columns in LISTS.items():
        op.create_index(name, "jobs", columns)
    for name, (column, condition) in SWEEPS.items():
        op.create_index(name, "jobs", [column], postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))
    for name in ("ix_jobs_queue", "ix_jobs_project_id_id", "ix_jobs_running"):
        op.drop_index(name, "jobs")
    _index_running(["project_id", "owner", "gpus"])
    waiting = sa.text("status = 'queued'")
    front = [sa.text("priority DESC"), "queued_at", "id"]
    op.create_index("ix_jobs_front", "jobs", front, postgresql_where=waiting, sqlite_where=waiting)
    op.create_table(
        "job_metadata",
        sa.Column("project_id", sa.String(40), sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(512), primary_key=True),
        sa.Column("created_at", sa.Double(), primary_key=True),
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id"), primary_key=True),
    )
    dialect = op.get_bind().dialect.name
    pairs = PAIRS[dialect]
    op.execute(INSERT.format(job="jobs", source=f"jobs, {pairs}(jobs.user_metadata) AS pair"))
    # A trigger, because services of the version before go on to insert jobs and know nothing of this table.
    insert = INSERT.format(job="NEW", source=f"{pairs}(NEW.user_metadata) AS pair")
    for statement in TRIGGERS[dialect]:
        op.execute(statement.format(insert=insert))


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER job_metadata_of_job ON jobs")
        op.execute("DROP FUNCTION job_metadata_of_job()")
    else:
        op.execute("DROP TRIGGER job_metadata_of_job")
    op.drop_table("job_metadata")
    op.drop_index("ix_jobs_front", "jobs")
    op.drop_index("ix_jobs_running", "jobs")
    _index_running(["project_id"])
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"])
    op.create_index("ix_jobs_queue", "jobs", ["status", "priority", "queued_at"])
    for name in (*SWEEPS, *LISTS):
        op.drop_index(name, "jobs")


def _index_running(columns: list[str]) -> None:
    where = sa.text("status = 'running'")
    op.create_index("ix_jobs_running", "jobs", columns, postgresql_where=where, sqlite_where=where)
