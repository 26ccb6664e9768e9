"""Projects, their limits, and their API keys."""

from app.auth.key_cache import KeyCache
from app.auth.keys import access_of, create_key, ensure_project, keys, new_key, revoke, touch
from app.auth.limits import ProjectLimits
from app.auth.roles import Access, Role

__all__ = [
    "Access",
    "KeyCache",
    "ProjectLimits",
    "Role",
    "access_of",
    "create_key",
    "ensure_project",
    "keys",
    "new_key",
    "revoke",
    "touch",
]
