"""Why a file cannot be used.

UnusableFile the file: the user can fix it
└── IntakeLimit it needs more time or memory than one upload may have
"""

import re
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
"""Lone surrogates, which names in JSON may contain and a response cannot."""


class UnusableFile(Exception):
    """A file that cannot become a dataset.

    `message` is what is wrong and where, `code` is a word for programs, `row` counts data rows from 1, `line` counts
    lines of the file from 1, `column` names a column, `hint` is what would help, and `file` names the file if an upload
    has several.
    """

    def __init__(
        self,
        message: str,
        code: str,
        *,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
        hint: str | None = None,
        file: str | None = None,
    ) -> None:
        self.message = SURROGATE.sub("\ufffd", message)
        super().__init__(self.message)
        self.code = code
        self.row = row
        self.line = line
        self.column = column and SURROGATE.sub("\ufffd", column)
        self.hint = hint
        self.file = file

    def name_file(self, file: str) -> None:
        """Add which of several files has the problem."""
        self.file = file
        if f"'{file}'" not in self.message:
            self.message = f"'{file}': {self.message}"
            self.args = (self.message,)

    def as_dict(self) -> dict[str, Any]:
        """Return every field in a form that JSON can hold."""
        return {
            "message": self.message,
            "code": self.code,
            "row": self.row,
            "line": self.line,
            "column": self.column,
            "hint": self.hint,
            "file": self.file,
        }


class IntakeLimit(UnusableFile):
    """Inspecting the file takes more memory or time than allowed: code `intake_memory` or `intake_time`."""


class UploadAbandoned(Exception):
    """The client left before its upload was parsed, so nobody waits for the dataset."""
