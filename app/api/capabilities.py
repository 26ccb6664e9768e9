"""What the service can do, and which workers do it."""

from fastapi import APIRouter

from app.api.answers import Page, TaskAnswer, WorkerAnswer
from app.api.context import Context, ProjectId
from app.jobs import queries
from app.specs import TASKS, JobSpec
from app.specs.compatibility import engines_for, methods_for
from app.workers.queries import listed

router = APIRouter(prefix="/v1", tags=["capabilities"])


@router.get("/tasks", response_model=Page[TaskAnswer])
def tasks(project: ProjectId) -> Page[TaskAnswer]:
    """List the task types, each with its JSON schema and an example."""
    schema = JobSpec.model_json_schema()
    return Page(
        data=[
            TaskAnswer(
                id=name,
                type=name,
                description=(task.__doc__ or "").strip(),
                required_columns=list(task.required_roles),
                optional_columns=list(task.optional_roles),
                metrics=list(task.all_metrics()),
                engines=list(engines_for(name)),
                engine_limits=engines_for(name),
                methods=methods_for(name),
                json_schema=task.model_json_schema(),
                job_schema=schema,
                example=dict(task.example),
            )
            for name, task in TASKS.items()
        ]
    )


@router.get("/workers", response_model=Page[WorkerAnswer])
def workers(context: Context, project: ProjectId) -> Page[WorkerAnswer]:
    """List the workers of the last day that have not signed off, alive or silent."""
    with context.database.read() as session:
        found = listed(session, silent_for=context.settings.lease_seconds)
        running = queries.running_on(session, project)
    return Page(
        data=[
            WorkerAnswer.model_validate(
                {
                    **{
                        name: getattr(worker, name)
                        for name in ("id", "host", "pid", "version", "slots", "hardware", "started_at", "last_seen_at")
                    },
                    "alive": alive,
                    "queues": worker.queues.split(","),
                    "engines": worker.engines.split(","),
                    "jobs": running.get(worker.id, []),
                }
            )
            for worker, alive in found
        ]
    )
