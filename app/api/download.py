"""Responses whose body is in storage: by the kernel from a local file, in chunks from anywhere else."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.zero_copy import EXTENSION
from app.storage import Storage

CHUNK = 512 << 10
"""Bytes of a remote object that one download holds in memory, while its client does not read."""


class StoredPart(NamedTuple):
    """Some bytes of an object in storage, from `start` up to, not including, `end`."""

    path: str
    start: int
    end: int


class _LocalFile(NamedTuple):
    descriptor: int
    start: int
    length: int


Opened = bytes | _LocalFile | Iterator[bytes]


class Download(StreamingResponse):
    """The parts of a body in order: bytes, or parts of stored objects. Its headers must have their content-length."""

    def __init__(
        self,
        storage: Storage,
        parts: Iterable[bytes | StoredPart],
        *,
        status: int = 200,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        """`parts` is read while the body is sent."""
        super().__init__((), status_code=status, headers=headers, media_type=media_type)
        self._storage, self._parts = storage, parts
        self._sends_files = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises ObjectNotFound before it has begun if the first object is gone."""
        self._sends_files = EXTENSION in scope.get("extensions", {})
        await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send head and body, until the client leaves."""
        waiting: list[bytes] | None = []
        for part in self._parts:
            opened: Opened = part if isinstance(part, bytes) else await run_in_threadpool(self._open, part)
            try:
                if waiting is not None and isinstance(opened, bytes):
                    waiting.append(opened)
                    continue
                if waiting is not None:
                    await self._begin(send, waiting)
                    waiting = None
                await self._send(send, opened)
            finally:
                if isinstance(opened, _LocalFile):
                    os.close(opened.descriptor)
        if waiting is not None:
            await self._begin(send, waiting)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send, waiting: list[bytes]) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"".join(waiting), "more_body": True})

    def _open(self, part: StoredPart) -> Opened:
        file = self._storage.local_file(part.path) if self._sends_files else None
        if file is None:
            return self._storage.read(part.path, part.start, part.end, chunk=CHUNK)
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return _LocalFile(descriptor, part.start, part.end - part.start)

    async def _send(self, send: Send, opened: Opened) -> None:
        if isinstance(opened, bytes):
            await send({"type": "http.response.body", "body": opened, "more_body": True})
        elif isinstance(opened, _LocalFile):
            where = {"file": opened.descriptor, "offset": opened.start, "count": opened.length}
            await send({"type": EXTENSION, "more_body": True, **where})
        else:
            async for chunk in iterate_in_threadpool(opened):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
