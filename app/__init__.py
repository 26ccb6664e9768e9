"""The service: HTTP, database, storage and command line. It never imports an ML framework or the worker."""

__version__ = "0.1.0"
