"""Rows: read, divided, checked."""
