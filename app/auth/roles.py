"""What a key may do in its project."""

from dataclasses import dataclass, field
from enum import StrEnum

from app.auth.limits import ProjectLimits

HIGHEST_PRIORITY = 100


class Role(StrEnum):
    """Each role may do everything that the ones before it may."""

    READ = "read"
    """Read everything of the project."""
    SUBMIT = "submit"
    """Also submit and control jobs, upload datasets, and create webhooks."""
    ADMIN = "admin"
    """Also create and revoke keys, and read the audit log."""

    def includes(self, other: "Role") -> bool:
        """Whether this role may do what the other may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Access:
    """What a valid key gives access to."""

    project_id: str
    key_id: str
    role: Role
    priority_ceiling: int
    """The highest priority that a job submitted with it may have."""
    limits: ProjectLimits = field(default_factory=ProjectLimits)
    """Of the project."""
    last_used_at: float | None = None
