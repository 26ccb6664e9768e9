"""Every read of datasets."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.tables import Dataset
from app.db import page


def dataset(session: Session, project_id: str, dataset_id: str) -> Dataset | None:
    """One dataset of this project that has not been deleted."""
    return session.scalar(
        select(Dataset).where(Dataset.id == dataset_id, Dataset.project_id == project_id, Dataset.deleted_at.is_(None))
    )


def hold(session: Session, dataset_ids: Collection[str]) -> set[str]:
    """Those of these datasets that are not deleted. They cannot be deleted until the transaction ends."""
    if not dataset_ids:
        return set()
    alive = select(Dataset.id).where(Dataset.id.in_(dataset_ids), Dataset.deleted_at.is_(None))
    return set(session.scalars(alive.with_for_update(read=True)))


def dataset_to_remove(session: Session, project_id: str, dataset_id: str) -> Dataset | None:
    """One dataset of this project, deleted or not. No new job can use it until the transaction ends."""
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.project_id == project_id)
    return session.scalar(query.with_for_update())


def datasets(session: Session, project_id: str, *, limit: int, after: str | None) -> tuple[list[Dataset], bool]:
    """A page of datasets, newest first, and whether there are more."""
    query = select(Dataset).where(Dataset.project_id == project_id, Dataset.deleted_at.is_(None))
    if after is not None:
        query = query.where(Dataset.id < after)
    return page(session, query.order_by(Dataset.id.desc()), limit)
