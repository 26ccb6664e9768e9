"""Projects and their API keys."""

from app.auth.keys import create_key, ensure_project, keys, project_of, revoke

__all__ = ["create_key", "ensure_project", "keys", "project_of", "revoke"]
