"""Webhooks: status events of jobs, sent to addresses that the project chose (https://www.standardwebhooks.com)."""
