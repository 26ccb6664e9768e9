"""Writes the names that `model.config` may have (`app/specs/model_settings.txt`) from the installed transformers."""

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from app.specs.model_settings import NAMES_FILE
from worker.training.models.settings import settings_of


def all_names() -> list[str]:
    """The settings of every configuration class, sorted."""
    return sorted({name for kind in CONFIG_MAPPING.values() for name in settings_of(kind)})


if __name__ == "__main__":
    NAMES_FILE.write_text("\n".join(all_names()) + "\n", encoding="ascii")
