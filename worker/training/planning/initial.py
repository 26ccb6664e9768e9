"""The model that an attempt begins or goes on with."""

from pathlib import Path
from typing import Any


class InitialModel:
    """A new model, which is in memory already, or a checkpoint that is yet to be loaded.

    `head` are the names of the parameters that were randomly initialized for the task.
    """

    def __init__(self, folder: Path, head: tuple[str, ...], model: Any = None, tokenizer: Any = None) -> None:
        self.head = head
        self._folder, self._model, self._tokenizer = folder, model, tokenizer
        self._is_written = model is None

    @property
    def folder(self) -> Path:
        """Where the model is, for those that load it from there. It is written and released when it is first asked for."""
        if not self._is_written:
            if self._model is None:
                raise RuntimeError("the initial model was taken before it was written")
            self._model.save_pretrained(self._folder)
            self._tokenizer.save_pretrained(self._folder)
            self._is_written, self._model = True, None
        return self._folder

    def take(self) -> Any:
        """The model in memory, which is then no longer held here. None if it must be loaded from `folder`."""
        model, self._model = self._model, None
        return model
