"""Byte ranges, against what slicing gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http_ranges import UNSATISFIABLE, requested_range

SIZES = st.integers(0, 50)
PLACES = st.integers(0, 60)


@given(size=SIZES, first=PLACES, last=PLACES)
def test_a_range_from_first_to_last_is_that_slice(size: int, first: int, last: int) -> None:
    found = requested_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found is None
    elif first >= size:
        assert found is UNSATISFIABLE
    else:
        assert isinstance(found, tuple)
        assert bytes(size)[slice(*found)] == bytes(size)[first : last + 1]
        assert found[0] == first


@given(size=SIZES, first=PLACES)
def test_an_open_range_goes_to_the_end(size: int, first: int) -> None:
    assert requested_range(f"bytes={first}-", size) == ((first, size) if first < size else UNSATISFIABLE)


@given(size=SIZES, count=PLACES)
def test_a_suffix_is_the_last_bytes(size: int, count: int) -> None:
    found = requested_range(f"bytes=-{count}", size)
    if not size or not count:
        assert found is UNSATISFIABLE
    else:
        assert found == (max(0, size - count), size)


@given(header=st.text(max_size=30) | st.none(), size=SIZES)
def test_anything_else_is_the_whole_file_or_a_range_within_it(header: str | None, size: int) -> None:
    found = requested_range(header, size)
    if isinstance(found, tuple):
        assert 0 <= found[0] < found[1] <= size


@pytest.mark.parametrize(
    "header", ["bytes=0-1,3-4", "bytes=", "bytes=-", "bytes=1", "chars=0-1", "bytes=\u0660-\u0663", "bytes=0--1"]
)
def test_what_a_server_may_ignore_is_ignored(header: str) -> None:
    assert requested_range(header, 10) is None


def test_numbers_beyond_any_file_are_numbers_still() -> None:
    assert requested_range(f"bytes=2-{10**400}", 10) == (2, 10)
    assert requested_range(f"bytes={10**400}-", 10) is UNSATISFIABLE
    assert requested_range("BYTES= 0-1 ", 10) == (0, 2)
