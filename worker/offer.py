"""What this worker can run."""

from collections.abc import Sequence
from pathlib import Path

from app.local_models import local_models
from app.specs.features import known_features, local_model_feature


class Offer:
    """The engines and features of this version on this machine, and the local models that are currently in its folder."""

    def __init__(self, engines: Sequence[str], models_dir: Path) -> None:
        self.engines = tuple(engines)
        self._known, self._models_dir = known_features(self.engines), models_dir

    def features(self) -> list[str]:
        """The features that this worker announces and by which it claims, sorted. Reads the models folder."""
        return sorted(self._known.union(map(local_model_feature, local_models(self._models_dir))))
