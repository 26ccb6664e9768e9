"""Users' rows: parsed once in a limited process, kept as Parquet, looked into and checked."""
