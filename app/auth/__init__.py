"""Projects and their API keys."""

from app.auth.key_cache import KeyCache
from app.auth.keys import create_key, ensure_project, keys, project_of, revoke

__all__ = ["KeyCache", "create_key", "ensure_project", "keys", "project_of", "revoke"]
