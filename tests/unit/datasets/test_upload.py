"""Forms as they arrive: whatever the pieces, the same files; and never held for long."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from app.datasets.upload import WRITE_BYTES, Received, receive

PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
NAME = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nmine\r\n'
END = b"--b--\r\n"


def _receive(chunks: Iterable[bytes], folder: Path) -> Received:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return asyncio.run(receive(arriving(), "multipart/form-data; boundary=b", None, folder, 1 << 30))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_files_are_the_same_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    contents = {"a.csv": b"a\r\n1\r\n-", "empty.csv": b"", "c.csv": b"\r\n--a\r\n\r", "d.csv": b"x"}
    parts = [PART % (name.encode(), content) for name, content in contents.items()]
    body = b"".join([*parts[:2], NAME, *parts[2:], END, b"what follows means nothing"])

    received = _receive((body[start : start + size] for start in range(0, len(body), size)), tmp_path)

    assert received.name == "mine"
    assert [file.filename for file in received.files] == list(contents)
    assert [file.path.read_bytes() for file in received.files] == list(contents.values())
    assert [file.size for file in received.files] == [len(content) for content in contents.values()]
    assert [file.sha256 for file in received.files] == [
        hashlib.sha256(content).hexdigest() for content in contents.values()
    ]
    assert received.sha256 == hashlib.sha256(b"".join(contents.values())).hexdigest()
    assert received.size == sum(map(len, contents.values()))


def test_what_has_come_is_on_disk_but_for_the_last_of_it(tmp_path: Path) -> None:
    pieces = 64
    block = b"x" * (WRITE_BYTES // 4)

    def chunks() -> Iterable[bytes]:
        for name in (b"a.csv", b"b.csv"):
            opening, closing = (PART % (name, b"|")).split(b"|")
            yield opening
            for piece in range(1, pieces + 1):
                yield block
                written = sum(path.stat().st_size for path in tmp_path.iterdir())
                before = pieces * len(block) if name == b"b.csv" else 0
                assert before + piece * len(block) - written <= WRITE_BYTES + len(block)
            yield closing
        yield END

    received = _receive(chunks(), tmp_path)

    assert [file.size for file in received.files] == [pieces * len(block)] * 2
