"""Runs jobs: claims them, supervises training processes, publishes the results."""
