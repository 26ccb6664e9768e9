"""Runs jobs: claims them, supervises training processes, publishes what they make."""
