"""Projects and their API keys."""

from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.auth.roles import Role
from app.db import db_now
from app.tables import Base


class Project(Base):
    """The owner of everything else."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    limits: Mapped[dict[str, Any] | None]
    """`ProjectLimits`; None without any."""


class ApiKey(Base):
    """A key's hash; the key itself is shown once and never stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id), index=True)
    name: Mapped[str] = mapped_column(String(200))
    key_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    revoked_at: Mapped[float | None]
    role: Mapped[str] = mapped_column(String(10), insert_default=Role.ADMIN, server_default="admin")
    priority_ceiling: Mapped[int | None] = mapped_column(Integer)
    """The highest priority of its jobs; None: the ceiling of the role."""
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    """Up to a minute old."""


class AuditEntry(Base):
    """One request that changed something, or tried to. Rows are only added."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id))
    key_id: Mapped[str] = mapped_column(String(40))
    method: Mapped[str] = mapped_column(String(10))
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int] = mapped_column(Integer)
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
