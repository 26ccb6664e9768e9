"""What every refusal of the service must look like."""

from typing import Any

import httpx


def refusal(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of an answer, which has this status, the envelope and a request id."""
    assert response.status_code == status, (response.status_code, response.text[:2000])
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) - {"details"} == {"message", "type", "param", "code"}
    assert error["message"]
    assert code is None or error["code"] == code, error
    return error
