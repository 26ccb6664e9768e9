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

from app.auth.tables import ApiKey, Project
from app.db import now
from app.errors import NotFound, Unauthorized
from app.identifiers import new_id

KEY = re.compile(r"ts_([0-9a-z]{26})_[A-Za-z0-9_-]{43}")
NO_HASH = "0" * 64


def project_of(session: Session, authorization: str | None) -> str:
    """The id of the project that an Authorization header gives access to. Raises Unauthorized."""
    scheme, _, presented = (authorization or "").partition(" ")
    match = KEY.fullmatch(presented.strip())
    if scheme.lower() != "bearer" or match is None:
        raise Unauthorized
    key = session.get(ApiKey, f"key_{match[1]}")
    expected = key.key_hash if key is not None else NO_HASH
    if not hmac.compare_digest(_hash(presented.strip()), expected) or key is None or key.revoked_at is not None:
        raise Unauthorized
    return key.project_id


def ensure_project(session: Session, name: str) -> Project:
    """The project with this name, created if it does not exist."""
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        project = Project(id=new_id("proj"), name=name)
        session.add(project)
        session.flush()
    return project


def create_key(session: Session, project_id: str, name: str) -> str:
    """Create a key and return it. It is not stored and cannot be shown again."""
    key_id = new_id("key")
    secret = f"ts_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
    session.add(ApiKey(id=key_id, project_id=project_id, name=name, key_hash=_hash(secret)))
    return secret


def keys(session: Session) -> list[tuple[ApiKey, str]]:
    """Every key with its project's name, oldest first."""
    rows = session.execute(select(ApiKey, Project.name).join(Project).order_by(ApiKey.id))
    return [(key, project) for key, project in rows]


def revoke(session: Session, key_id: str) -> None:
    """Revoke a key at once. Raises NotFound for an id that no valid key has."""
    revoked = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now())
        .returning(ApiKey.id)
    ).one_or_none()
    if revoked is None:
        raise NotFound(f"there is no valid key '{key_id}'; `tunesmith keys list` lists the keys")


def _hash(key: str) -> str:
    return sha256(key.encode()).hexdigest()
