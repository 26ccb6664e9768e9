"""The audit log: which key changed what, from where. Entries are only added."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth.tables import AuditEntry
from app.db import page
from app.identifiers import new_id


@dataclass(frozen=True)
class AuditedRequest:
    """A request that changed something, or was refused."""

    project_id: str
    key_id: str
    method: str
    path: str
    status: int
    address: str | None
    request_id: str


def record(session: Session, request: AuditedRequest) -> None:
    """Add an entry."""
    session.add(
        AuditEntry(
            id=new_id("aud"),
            project_id=request.project_id,
            key_id=request.key_id,
            method=request.method,
            path=request.path,
            status=request.status,
            address=request.address,
            request_id=request.request_id,
        )
    )


def entries(session: Session, project_id: str, *, limit: int, after: str | None) -> tuple[list[AuditEntry], bool]:
    """Entries of a project, newest first, after the one with the id `after`; and whether there are more."""
    query = select(AuditEntry).where(AuditEntry.project_id == project_id).order_by(AuditEntry.id.desc())
    return page(session, query if after is None else query.where(AuditEntry.id < after), limit)
