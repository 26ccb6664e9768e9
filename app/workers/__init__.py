"""The workers, as they announce themselves in the database."""
