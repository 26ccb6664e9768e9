"""The API keys of a project, and the log of what they were used for. Only for admins."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.orm import Session

from app import auth
from app.api.answers import Deleted, Error, Page, Time
from app.api.audit_writer import AuditWriter
from app.api.body import json_body
from app.api.context import Context, ProjectId, admins_only
from app.api.parameters import Limit
from app.auth import Role, audit
from app.auth.tables import ApiKey, AuditEntry
from app.specs.display_text import ONE_LINE
from app.specs.strict import Strict

router = APIRouter(prefix="/v1", tags=["keys"], dependencies=[Depends(admins_only)], responses={403: {"model": Error}})

DAY_SECONDS = 86400.0

KeyName = Annotated[str, StringConstraints(min_length=1, max_length=200), ONE_LINE]


class KeySpec(Strict):
    """A new API key."""

    name: KeyName = Field(description="A name for lists.")
    role: Literal["read", "submit", "admin"] = Field(
        default="submit",
        description="`read`: only read. `submit`: also submit and control jobs, upload datasets, create webhooks. `admin`: "
        "also create and revoke keys, and read the audit log.",
    )
    expires_in_days: float | None = Field(
        default=None, gt=0, le=3650, description="How long it is valid; without it, until it is revoked."
    )
    priority_ceiling: int | None = Field(
        default=None,
        ge=-100,
        le=100,
        description="The highest priority of its jobs. Without it: 0, and for `admin` 100. The project's ceiling applies too.",
    )


class KeyAnswer(BaseModel):
    """An API key, without its secret."""

    id: str
    object: Literal["key"] = "key"
    name: str
    role: Role
    priority_ceiling: int | None
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None = Field(description="Up to a minute old.")
    revoked_at: Time | None


class NewKey(KeyAnswer):
    """A key with its secret, which is shown only once."""

    secret: str = Field(description="Send it as `Authorization: Bearer SECRET`. It is not shown again.")


class AuditAnswer(BaseModel):
    """A request that changed something, or was refused."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    key_id: str
    method: str
    path: str
    status: int = Field(description="The status code of the response.")
    address: str | None = Field(description="The address that the request came from.")
    request_id: str
    created_at: Time


Body = Annotated[tuple[KeySpec, Any], Depends(json_body(KeySpec))]
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": KeySpec.model_json_schema()}}}}


@router.post("/keys", status_code=201, response_model=NewKey, responses={422: {"model": Error}}, openapi_extra=BODY)
def create(body: Body, context: Context, project: ProjectId) -> NewKey:
    """Create an API key of this project. Only this response has its secret."""
    spec = body[0]
    with context.database.write() as session:
        key, secret = auth.new_key(
            session,
            project,
            spec.name,
            Role(spec.role),
            expires_in=None if spec.expires_in_days is None else spec.expires_in_days * DAY_SECONDS,
            priority_ceiling=spec.priority_ceiling,
        )
        session.refresh(key)
        return NewKey(**_fields(key), secret=secret)


@router.get("/keys", response_model=Page[KeyAnswer])
def list_keys(context: Context, project: ProjectId) -> Page[KeyAnswer]:
    """List the keys of this project, oldest first, all on one page."""
    with context.database.read() as session:
        return Page(data=[KeyAnswer(**_fields(key)) for key, _ in auth.keys(session, project)])


@router.delete("/keys/{key_id}", response_model=Deleted, responses={404: {"model": Error}})
def revoke(key_id: str, context: Context, project: ProjectId) -> Deleted:
    """Revoke a key. Every process of the service refuses it within a second. Its entry stays in the list."""
    with context.database.write() as session:
        auth.revoke(session, key_id, project)
    return Deleted(id=key_id, object="key")


@router.get("/audit", response_model=Page[AuditAnswer])
async def audit_log(
    request: Request,
    context: Context,
    project: ProjectId,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=40, description="The last id of the previous page.")] = None,
) -> Page[AuditAnswer]:
    """List the requests of this project that changed something or were refused, newest first."""
    writer: AuditWriter = request.app.state.audit
    await writer.flush()

    def read(session: Session) -> Page[AuditAnswer]:
        found, has_more = audit.entries(session, project, limit=limit, after=after)
        return Page(data=[_entry(entry) for entry in found], has_more=has_more)

    return await context.read_in_thread(read)


def _fields(key: ApiKey) -> dict[str, Any]:
    names = ("id", "name", "role", "priority_ceiling", "created_at", "expires_at", "last_used_at", "revoked_at")
    return {name: getattr(key, name) for name in names}


def _entry(entry: AuditEntry) -> AuditAnswer:
    names = ("id", "key_id", "method", "path", "status", "address", "request_id", "created_at")
    return AuditAnswer(**{name: getattr(entry, name) for name in names})
