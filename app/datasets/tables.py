"""Uploaded datasets."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.auth.tables import Project
from app.db import db_now
from app.tables import Base


class Dataset(Base):
    """One uploaded file, or several with the same columns, inspected and stored as Parquet."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey(Project.id), index=True)
    name: Mapped[str | None] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    """The first file's, like `source_path`; all are in `files`."""
    format: Mapped[str] = mapped_column(String(20))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int] = mapped_column(BigInteger)
    columns: Mapped[list[dict[str, Any]]]
    files: Mapped[list[dict[str, Any]] | None]
    """Name, format, bytes, sha256, rows and path of each; None for one file of a service before 0005."""
    source_path: Mapped[str] = mapped_column(String(500))
    parquet_path: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[float] = mapped_column(insert_default=db_now())
    deleted_at: Mapped[float | None]
