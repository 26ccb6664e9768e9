"""The conversation with the parent: commands on standard input, answers on standard output."""

import json
import os
import select
from typing import Any


class Conversation:
    """The conversation with the parent. What libraries print goes to standard error instead."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._read = b""

    def answer(self, said: str, **more: Any) -> None:
        """Send an answer."""
        self._answers.write(json.dumps({"said": said, **more}) + "\n")

    def next_command(self) -> dict[str, Any]:
        """The next command; `quit` if the parent is gone."""
        while b"\n" not in self._read:
            piece = os.read(0, 1 << 16)
            if not piece:
                return {"do": "quit"}
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return json.loads(line)

    def is_interrupted(self) -> bool:
        """Whether the parent interrupts the current command. This consumes the interrupt."""
        if b"\n" not in self._read and not select.select([0], [], [], 0)[0]:
            return False
        return self.next_command()["do"] in ("interrupt", "quit")
