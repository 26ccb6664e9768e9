"""Why a file cannot be used.

UnusableFile     the file: the user can mend it
└── IntakeLimit  it asks for more time or memory than one upload may have
"""

import re
from typing import Any

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half characters, which names in JSON may hold and no answer can."""


class UnusableFile(Exception):
    """A file that cannot become a dataset.

    `message` says what is wrong and where, `code` is a word for programs, `row` counts data rows from 1,
    `line` counts lines of the file from 1, `column` names a column, `hint` says what would help, and `file` names
    the file where an upload has several.
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
        """Say in which of several files it is."""
        self.file = file
        if f"'{file}'" not in self.message:
            self.message = f"'{file}': {self.message}"
            self.args = (self.message,)

    def as_dict(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
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
    """Inspecting the file takes more than it may: code `intake_memory` or `intake_time`."""
