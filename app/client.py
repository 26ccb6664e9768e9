"""The HTTP client under the command line. Every refusal of the service becomes a `Refused`."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx

from app.specs.display_text import visible

Answer = dict[str, Any]
RETRIES = 3


class ClientError(Exception):
    """A request that failed or was refused."""


class Refused(ClientError):
    """The service answered with an error. `code` and `details` are the service's."""

    def __init__(self, status: int, error: Answer) -> None:
        self.status, self.code = status, str(error.get("code"))
        self.details: Any = error.get("details")
        super().__init__(str(error.get("message")))

    def rows(self) -> list[Answer]:
        """The details, if there are several."""
        details: Any = self.details
        return cast("list[Answer]", details) if isinstance(details, list) else []

    @property
    def hint(self) -> str | None:
        """What to do, if the service sent that separately from the message."""
        details: Any = self.details
        return cast("Answer", details).get("hint") if isinstance(details, dict) else None


class Unreachable(ClientError):
    """The service does not answer at this address."""


class Client:
    """One service and one key. Raises ClientError if the URL or the key is malformed."""

    def __init__(self, url: str, key: str) -> None:
        if not key.isascii():
            raise ClientError(
                "the API key contains characters that no key has; check TUNESMITH_API_KEY, or the key file"
            )
        try:
            self._http = httpx.Client(
                base_url=url,
                headers={"authorization": f"Bearer {key}"},
                timeout=httpx.Timeout(30, read=120),
                transport=httpx.HTTPTransport(retries=RETRIES),
            )
        except httpx.InvalidURL as error:
            raise ClientError(f"TUNESMITH_URL is not the address of a service: {error}") from error

    def get(self, path: str, **query: Any) -> Answer:
        """Send a GET. Raises Refused, Unreachable."""
        return self._ask("GET", path, params={key: value for key, value in query.items() if value is not None})

    def post(self, path: str, body: Answer | None = None, headers: dict[str, str] | None = None) -> Answer:
        """POST JSON. Raises Refused, Unreachable."""
        return self._ask("POST", path, json=body, headers=headers)

    def delete(self, path: str) -> Answer:
        """Send a DELETE. Raises Refused, Unreachable."""
        return self._ask("DELETE", path)

    def upload(self, *paths: Path, name: str | None = None) -> Answer:
        """Upload files with the same columns as one dataset, streamed. Raises Refused, Unreachable, OSError."""
        with ExitStack() as opened:
            # The response comes only after the inspection, which takes a while for a large file.
            return self._ask(
                "POST",
                "/v1/datasets",
                files=[("file", (path.name, opened.enter_context(path.open("rb")))) for path in paths],
                data=None if name is None else {"name": name},
                timeout=httpx.Timeout(30, read=1800, write=1800),
            )

    def events(self, job_id: str, after: int) -> Iterator[Answer]:
        """All events of a job after an id, page by page."""
        while True:
            page = self.get(f"/v1/jobs/{job_id}/events", after=after, limit=1000)
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["data"][-1]["id"]

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Generator[httpx.Response]:
        """Open a download. Raises Refused, Unreachable."""
        try:
            with self._http.stream("GET", path, headers=headers) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield response
        except httpx.TransportError as error:
            raise Unreachable(
                f"the download from {self._http.base_url} broke off: {error or type(error).__name__}"
            ) from error

    def _ask(self, method: str, path: str, **options: Any) -> Answer:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            message = f"no answer from {self._http.base_url}: {error or type(error).__name__}. Is the service up? `tunesmith up` starts it; TUNESMITH_URL names another address"
            raise Unreachable(message) from error
        if response.is_error:
            raise _refusal(response)
        try:
            return cast("Answer", visible(response.json()))
        except ValueError as error:
            raise ClientError(
                f"{self._http.base_url} did not answer with JSON; is this a Tunesmith service?"
            ) from error


def _refusal(response: httpx.Response) -> Refused:
    try:
        error = visible(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        error = {
            "message": f"the service answered {response.status_code} without a reason; is this a Tunesmith service?"
        }
    return Refused(response.status_code, error)
