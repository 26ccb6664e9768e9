"""A program `nvidia-smi` for machines without a GPU: a real executable that lists what a test says."""

from pathlib import Path

LISTED = (
    ("GPU-aaaa1111-0000", "NVIDIA A10", "23028"),
    ("GPU-aaaa2222-0000", "NVIDIA H100 80GB HBM3", "81559"),
    ("GPU-bbbb3333-0000", "NVIDIA GH200", "[N/A]"),
)


def install(folder: Path, *listed: tuple[str, str, str], code: int = 0) -> Path:
    """Write the program into a folder, for PATH. It prints uuid, name and memory of each GPU and exits with `code`."""
    folder.mkdir(exist_ok=True)
    lines = "\n".join(", ".join(gpu) for gpu in listed)
    program = folder / "nvidia-smi"
    # As the real one, it takes the question for more columns or another form as an error.
    program.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "--query-gpu=uuid,name,memory.total --format=csv,noheader,nounits" ] || exit 6\n'
        f"cat <<'LISTING'\n{lines}\nLISTING\nexit {code}\n"
    )
    program.chmod(0o755)
    return folder
