"""API keys: shown once, stored as a hash, compared in constant time, revocable.

A key is `ts_<id>_<secret>`: the id finds the row, the secret is 256 random bits. A hash of so much
randomness needs no salt and no slow function.
"""

import hmac
import re
import secrets
from hashlib import sha256

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.auth.limits import ProjectLimits
from app.auth.roles import HIGHEST_PRIORITY, Access, Role
from app.auth.tables import ApiKey, Project
from app.db import now
from app.errors import NotFound, Unauthorized
from app.identifiers import new_id

KEY = re.compile(r"ts_([0-9a-z]{26})_[A-Za-z0-9_-]{43}")
NO_HASH = "0" * 64


def access_of(session: Session, authorization: str | None) -> Access:
    """What an Authorization header gives access to. Raises Unauthorized."""
    scheme, _, presented = (authorization or "").partition(" ")
    match = KEY.fullmatch(presented.strip())
    if scheme.lower() != "bearer" or match is None:
        raise Unauthorized
    row = session.execute(
        select(ApiKey, Project.limits, now()).join(Project).where(ApiKey.id == f"key_{match[1]}")
    ).one_or_none()
    key, limits, moment = (None, None, 0.0) if row is None else row
    expected = key.key_hash if key is not None else NO_HASH
    if not hmac.compare_digest(_hash(presented.strip()), expected) or key is None or key.revoked_at is not None:
        raise Unauthorized
    if key.expires_at is not None and key.expires_at <= moment:
        raise Unauthorized(
            "this API key has expired; an admin of the project can create a new one", code="expired_api_key"
        )
    of_project = ProjectLimits.model_validate(limits or {})
    return Access(key.project_id, key.id, Role(key.role), _ceiling(key, of_project), of_project, key.last_used_at)


def _ceiling(key: ApiKey, limits: ProjectLimits) -> int:
    of_project = limits.priority_ceiling
    of_role = HIGHEST_PRIORITY if key.role == Role.ADMIN else 0
    of_key = of_role if key.priority_ceiling is None else key.priority_ceiling
    return min(of_key, HIGHEST_PRIORITY if of_project is None else of_project)


def ensure_project(session: Session, name: str) -> Project:
    """The project with this name, created if it does not exist."""
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        project = Project(id=new_id("proj"), name=name)
        session.add(project)
        session.flush()
    return project


def create_key(
    session: Session,
    project_id: str,
    name: str,
    role: Role = Role.ADMIN,
    *,
    expires_in: float | None = None,
    priority_ceiling: int | None = None,
) -> str:
    """Create a key, valid for `expires_in` seconds, and return it. It is not stored and cannot be shown again."""
    return new_key(session, project_id, name, role, expires_in=expires_in, priority_ceiling=priority_ceiling)[1]


def new_key(
    session: Session,
    project_id: str,
    name: str,
    role: Role,
    *,
    expires_in: float | None = None,
    priority_ceiling: int | None = None,
) -> tuple[ApiKey, str]:
    """The same with its row."""
    key_id = new_id("key")
    secret = f"ts_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        key_hash=_hash(secret),
        role=role,
        priority_ceiling=priority_ceiling,
        expires_at=None if expires_in is None else session.scalar(select(now() + expires_in)),
    )
    session.add(key)
    session.flush()
    return key, secret


def keys(session: Session, project_id: str | None = None) -> list[tuple[ApiKey, str]]:
    """Every key, or those of a project, with its project's name, oldest first."""
    query = select(ApiKey, Project.name).join(Project).order_by(ApiKey.id)
    rows = session.execute(query if project_id is None else query.where(ApiKey.project_id == project_id))
    return [(key, project) for key, project in rows]


def revoke(session: Session, key_id: str, project_id: str | None = None) -> None:
    """Revoke a key at once. Raises NotFound for an id that no valid key, or none of the project, has."""
    of_project = () if project_id is None else (ApiKey.project_id == project_id,)
    revoked = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None), *of_project)
        .values(revoked_at=now())
        .returning(ApiKey.id)
    ).one_or_none()
    if revoked is None:
        raise NotFound(
            f"there is no valid key '{key_id}'; `tunesmith keys list` lists the keys",
            param="key_id",
            code="key_not_found",
        )


def touch(session: Session, key_id: str) -> None:
    """Record that a key was used."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now()))


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()
