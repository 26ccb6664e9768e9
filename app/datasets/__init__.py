"""Users' rows: parsed once in a limited process, stored as Parquet, previewed and checked."""
