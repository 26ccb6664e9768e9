"""Several rows in one sequence, so that short rows waste no padding (best-fit decreasing, as in Ding et al., 2024)."""

from bisect import bisect_left, insort

from worker.training.tasks.protocol import PLACE

UNLEARNED = -100


def packed(rows: dict[str, list[list[int]]], size: int) -> dict[str, list[list[int]]]:
    """Put rows of `input_ids` and `labels` together into sequences of at most `size` tokens.

    `position_ids` restart at 0 with each row, `_place` is that of a sequence's first row. No row is divided.
    """
    bins = _bins([len(ids) for ids in rows["input_ids"]], size)
    return {
        "input_ids": [[token for place in places for token in rows["input_ids"][place]] for places in bins],
        # The first token of a row follows another row, so it cannot be predicted from it.
        "labels": [[label for place in places for label in _begun(rows["labels"][place])] for places in bins],
        "position_ids": [
            [step for place in places for step in range(len(rows["input_ids"][place]))] for places in bins
        ],
        PLACE: [places[0] for places in bins],  # pyright: ignore[reportReturnType] - a place a sequence, not a list
    }


def _bins(lengths: list[int], size: int) -> list[list[int]]:
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = min(lengths[place], size)
        fitting = bisect_left(rooms, (length, -1))
        if fitting == len(rooms):
            room, number = size, len(bins)
            bins.append([])
        else:
            room, number = rooms.pop(fitting)
        bins[number].append(place)
        insort(rooms, (room - length, number))
    return bins


def _begun(labels: list[int]) -> list[int]:
    return [UNLEARNED, *labels[1:]]
