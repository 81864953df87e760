"""Reading ahead gives what reading now gives, in its order and within its bounds, whatever is held."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from witness import facts, grid

from features.bags.bag import read_header, write_bag
from features.bags.rows import StoredRows
from mil.data import read_ahead as ahead_module
from mil.data.device_rows import DeviceRows
from mil.data.read_ahead import Wanted, read_ahead
from mil.ragged.packing import pack
from wsi.arrays import Features, Ints
from wsi.errors import BagError

SIZES = (40, 3, 70, 11, 25, 60, 9, 33)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRows]:
    folder = tmp_path_factory.mktemp("bags")
    for number, n_tiles in enumerate(SIZES):
        rows = np.random.default_rng(number).normal(size=(n_tiles, 6)).astype(np.float16)
        write_bag(folder / f"s{number}.h5", [rows], grid(n_tiles), facts(f"s{number}"))
    return [StoredRows(read_header(folder / f"s{number}.h5")) for number in range(len(SIZES))]


def steps_of(bags: list[StoredRows], rng: np.random.Generator) -> list[list[Wanted]]:
    """Every bag twice, whole or a few rows of it, in steps of three."""
    order = rng.permutation(np.repeat(np.arange(len(bags)), 2))
    drawn = [np.sort(rng.choice(SIZES[i], 2, replace=False)) if rng.random() < 0.5 else None for i in order]
    wanted = [Wanted(bags[i], rows) for i, rows in zip(order.tolist(), drawn, strict=True)]
    return [wanted[first : first + 3] for first in range(0, len(wanted), 3)]


@pytest.mark.parametrize("most_bytes", [1, 500, 1 << 30])
@pytest.mark.parametrize("device", [None, "kept", "not kept"])
def test_what_comes_is_what_is_in_the_bags(
    bags: list[StoredRows], monkeypatch: pytest.MonkeyPatch, most_bytes: int, device: str | None
) -> None:
    monkeypatch.setattr(ahead_module, "AHEAD_BYTES", most_bytes)
    rows = None if device is None else DeviceRows(torch.device("cpu"))
    if rows is not None:
        rows.keep(1.0 if device == "kept" else 0.0)
    steps = steps_of(bags, np.random.default_rng(0))
    seen = 0
    for (step, readings), asked in zip(read_ahead(steps, lambda step: step, rows), steps, strict=True):
        assert step is asked
        for own, reading in zip(asked, readings, strict=True):
            for found in (reading.take(), reading.take()):  # asked again, it is read again
                assert isinstance(found, Tensor) == (device is not None)
                np.testing.assert_array_equal(np.asarray(found), own.read())
            seen += 1
    assert seen == 2 * len(SIZES)


def test_no_more_is_ahead_than_allowed(bags: list[StoredRows], monkeypatch: pytest.MonkeyPatch) -> None:
    most, row = 1000, 6 * 2
    monkeypatch.setattr(ahead_module, "AHEAD_BYTES", most)
    begun: list[int] = []
    lock = threading.Lock()
    read = StoredRows.read

    def counted(self: StoredRows, rows: Ints | None = None, empty: object = np.empty) -> Features:
        with lock:
            begun.append(len(self) * row)
        return read(self, rows)

    monkeypatch.setattr(StoredRows, "read", counted)
    steps = [[Wanted(bag)] for bag in bags * 4]
    taken, largest = 0, max(SIZES) * row
    for (own,), (reading,) in read_ahead(steps, lambda step: step):
        reading.take()
        taken += len(own.bag) * row
        with lock:
            assert sum(begun) - taken < most + largest
    assert (len(begun), sum(begun)) == (len(steps), taken), "each bag is read once"


def test_what_is_held_is_not_read_again(bags: list[StoredRows], monkeypatch: pytest.MonkeyPatch) -> None:
    held = StoredRows(bags[0].header)
    held.hold()
    array = np.ones((3, 6), np.float16)
    monkeypatch.setattr(ahead_module, "_pool", lambda: pytest.fail("a thread was asked"))
    for _, (first, second) in read_ahead([0], lambda _: [Wanted(held), Wanted(array, np.array([1]))]):
        assert first.take() is held.held
        np.testing.assert_array_equal(second.take(), array[:1])


def test_a_bag_that_cannot_be_read_is_told_where_it_is_wanted(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        write_bag(tmp_path / f"{name}.h5", [np.ones((5, 6), np.float16)], grid(5), facts(name))
    good, bad = (StoredRows(read_header(tmp_path / f"{name}.h5")) for name in ("good", "bad"))
    with (tmp_path / "bad.h5").open("r+b") as file:
        file.seek(bad.place.offset or 0)
        file.write(b"\1\2")
    ahead = read_ahead([good, bad], lambda own: [Wanted(own)])
    _, (reading,) = next(ahead)
    assert len(reading.take()) == 5
    _, (reading,) = next(ahead)
    with pytest.raises(BagError, match=r"bad\.h5: "):
        reading.take()


def test_bags_stay_on_the_device_while_there_is_room(bags: list[StoredRows], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = StoredRows.read

    def counted(self: StoredRows, rows: Ints | None = None, empty: object = np.empty) -> Features:
        reads.append(self.header.image_id)
        return read(self, rows)

    monkeypatch.setattr(StoredRows, "read", counted)
    rows = DeviceRows(torch.device("cpu"))
    rows.keep((bags[0].nbytes + bags[1].nbytes) / 2**30)
    for _ in range(3):
        for bag in bags[:3]:
            np.testing.assert_array_equal(rows.fetch(bag, None).numpy(), read(bag))
            np.testing.assert_array_equal(rows.fetch(bag, np.array([0, 2])).numpy(), read(bag)[[0, 2]])
    assert [reads.count(f"s{number}") for number in range(3)] == [1, 1, 6]


def test_tensors_are_packed_where_they_are() -> None:
    first, second = torch.ones(2, 3, dtype=torch.float16), torch.zeros(1, 3, dtype=torch.float16)
    packed = pack([first, second])
    assert (packed.offsets, packed.rows_ND.dtype) == ((0, 2, 3), torch.float16)
    torch.testing.assert_close(packed.rows_ND, torch.cat([first, second]))
