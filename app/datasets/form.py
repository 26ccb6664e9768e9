"""The multipart form of an upload: its files, and a name for all of them. It is parsed as its bytes arrive."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import InvalidRequest
from app.specs.display_text import has_controls

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FILE_FIELD = "file"
NAME_FIELD = "name"
FILE_LIMIT = 100
FILENAME_LIMIT = 255
NAME_LIMIT = 200
EXAMPLE = (
    "send multipart/form-data with a part named 'file' for each file, such as curl -F file=@reviews.csv, "
    "and, if you like, one part 'name' without a file name"
)


class FilePart:
    """A file of the form: its name, and those of its bytes that were not taken yet."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.data = bytearray()


class Form:
    """The form so far: `files` in their order, `name`, and `is_whole` after the last boundary.

    Raises InvalidRequest if it is not such a form.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest(EXAMPLE, param=FILE_FIELD, code="not_multipart")
        self.files: list[FilePart] = []
        self.is_whole = False
        self._name: bytearray | None = None
        self._data = bytearray()
        self._field, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except FormParserError as error:
            raise broken(f"the multipart body cannot be read: {error}") from None

    @property
    def name(self) -> str | None:
        """The user's name for the dataset. Raises InvalidRequest if it is not valid."""
        if self._name is None:
            return None
        try:
            name = self._name.decode()
        except UnicodeDecodeError:
            name = ""
        if not name.strip() or has_controls(name) or len(name) > NAME_LIMIT:
            raise _bad_name()
        return name

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes. Raises InvalidRequest."""
        # Bytes after the last boundary have no meaning.
        if self.is_whole:
            return
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise broken(f"the multipart body is broken: {error}") from None

    def require_whole(self) -> None:
        """Raise InvalidRequest for a form that ends early or has no file."""
        if not self.is_whole:
            raise broken(f"the upload ends before its last boundary; {EXAMPLE}")
        if not self.files:
            raise broken(f"there is no file; {EXAMPLE}")

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        field, filename = options.get(b"name", b""), options.get(b"filename")
        if field == NAME_FIELD.encode() and filename is None and self._name is None:
            self._name = self._data = bytearray()
        elif field == FILE_FIELD.encode() and filename:
            part = FilePart(self._new_filename(filename.decode("utf-8", "replace")))
            self.files.append(part)
            self._data = part.data
        else:
            raise broken(EXAMPLE)

    def _new_filename(self, given: str) -> str:
        # Only the last segment. It is displayed and determines the format, and is never used as a path.
        name = given.replace("\\", "/").rsplit("/", 1)[-1]
        if not name.isprintable() or not 1 <= len(name) <= FILENAME_LIMIT:
            message = f"the file name must have 1 to {FILENAME_LIMIT} characters and no control characters"
            raise InvalidRequest(message, param=FILE_FIELD, code="invalid_filename")
        if any(name == part.filename for part in self.files):
            message = (
                f"two files are called '{name}'; rename one of them: each row is identified by the name of its file"
            )
            raise InvalidRequest(message, param=FILE_FIELD, code="invalid_filename")
        if len(self.files) == FILE_LIMIT:
            message = f"there are more than {FILE_LIMIT} files; join some of them, or create several datasets"
            raise InvalidRequest(message, param=FILE_FIELD, code="too_many_files")
        return name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        if self._data is self._name and len(self._data) > 4 * NAME_LIMIT:
            raise _bad_name()

    def _end(self) -> None:
        self.is_whole = True


def broken(message: str) -> InvalidRequest:
    """The error for a form that cannot be read."""
    return InvalidRequest(message, param=FILE_FIELD, code="invalid_multipart")


def _bad_name() -> InvalidRequest:
    message = f"the name must have 1 to {NAME_LIMIT} printable characters"
    return InvalidRequest(message, param=NAME_FIELD, code="invalid_name")
