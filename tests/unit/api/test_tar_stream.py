"""The tar that is made while it is sent, read by Python's own tarfile."""

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from app.tar_stream import tar_length, tar_parts

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150).filter(
    lambda name: name not in (".", "..")
)


@given(files=st.dictionaries(NAMES, st.binary(max_size=1100), max_size=5))
def test_any_files_come_out_as_they_went_in_and_the_length_is_known_before(files: dict[str, bytes]) -> None:
    sizes = [(f"job/{name}", len(content)) for name, content in files.items()]
    data = b"".join(tar_parts(sizes, lambda name, _: files[name.removeprefix("job/")]))
    assert len(data) == tar_length(sizes)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        assert {name.removeprefix("job/"): file.read() for name, file in found.items() if file} == files


def test_a_file_larger_than_old_tars_can_say_is_announced_right() -> None:
    size = 9 << 30
    stream = tar_parts([("weights", size)], lambda _, __: b"")
    header = next(stream)
    assert tarfile.TarInfo.frombuf(header[1024:1536], "utf-8", "strict").name == "weights"
    assert tar_length([("weights", size)]) == len(header) + size + 1024
