"""Webhooks: status events of jobs, sent to addresses of the project's choice (https://www.standardwebhooks.com)."""
