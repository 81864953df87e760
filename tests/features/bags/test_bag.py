"""The bag file: ours there and back, other tools' forms, damage."""

import dataclasses
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.bags.bag import (
    BagFacts,
    feature_rows,
    find_bags,
    is_intact,
    is_our_bag,
    nominal_power,
    read_coords,
    read_features,
    read_header,
    write_bag,
)
from wsi.errors import BagError, RequestError

COORDS_YX = np.array([[0, 512], [512, 0], [512, 1024]], np.int64)


def features(n: int = 3, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(n, dim)).astype(np.float32)


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_round_trip(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "049194_0.h5"
    rows = features()
    write_bag(path, [rows[:2], rows[2:]], COORDS_YX, facts)
    header = read_header(path)
    assert (header.image_id, header.n_tiles, header.dim, header.encoder) == ("049194_0", 3, 5, "texture")
    assert header.recipe == facts.recipe
    assert header.provenance == facts.provenance
    assert (header.tile_px_l0, header.level0_shape_yx, header.mpp) == (512.0, (3000, 4000), 0.5)
    assert read_features(path).dtype == np.float16
    np.testing.assert_array_equal(read_features(path), rows.astype(np.float16))
    np.testing.assert_array_equal(read_coords(path), COORDS_YX)
    assert is_intact(path)


def test_only_a_bag_of_ours_or_what_is_left_of_one_may_be_replaced(tmp_path: Path, facts: BagFacts) -> None:
    write_bag(tmp_path / "ours.h5", [features()], COORDS_YX, facts)
    write_bag(tmp_path / "large.h5", [features(20_000, 64)], np.zeros((20_000, 2), np.int64), facts)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["features"] = features()
    (tmp_path / "empty.h5").touch()
    (tmp_path / "short.h5").write_bytes((tmp_path / "theirs.h5").read_bytes()[:-100])
    (tmp_path / "notes.h5").write_text("do not delete me")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "linked.h5").symlink_to(tmp_path / "theirs.h5")
    os.mkfifo(tmp_path / "fifo.h5")
    names = (*(path.stem for path in sorted(tmp_path.iterdir())), "absent")
    assert [name for name in names if is_our_bag(tmp_path / f"{name}.h5")] == ["empty", "large", "ours", "short"]
    for name in ("theirs", "notes"):
        before = (tmp_path / f"{name}.h5").read_bytes()
        with pytest.raises(RequestError, match=f"{name}.h5"):
            write_bag(tmp_path / f"{name}.h5", [features()], COORDS_YX, facts)
        assert (tmp_path / f"{name}.h5").read_bytes() == before


def test_file_is_as_trident_writes_it(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [features()], COORDS_YX, facts)
    with h5py.File(path, "r") as file:
        assert file["features"].chunks is None
        np.testing.assert_array_equal(file["coords"][:], COORDS_YX[:, ::-1])
        assert file["coords"].dtype == np.int64
        assert dict(file["coords"].attrs) == {
            "patch_size": 256,
            "patch_size_level0": 512,
            "level0_magnification": 40,
            "target_magnification": 20,
            "overlap": 0,
            "name": "049194_0",
            "savetodir": "",
            "level0_width": 4000,
            "level0_height": 3000,
        }
        assert dict(file["features"].attrs) == {"name": "049194_0", "encoder": "texture"}


def test_rows_are_memory_mapped_where_contiguous(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "bag.h5"
    rows = features(7, 64)
    write_bag(path, [rows], np.zeros((7, 2), np.int64), facts)
    mapped = feature_rows(path)
    assert is_mapped(path)
    np.testing.assert_array_equal(mapped, rows.astype(np.float16))
    assert not mapped.flags.writeable
    del mapped
    with h5py.File(path, "r+") as file:
        del file["features"]
        file.create_dataset("features", data=rows[None], chunks=(1, 1, 64), compression="gzip")
        del file.attrs["content_sha256"], file.attrs["format"]
    read = feature_rows(path)
    assert not is_mapped(path)
    np.testing.assert_array_equal(read, rows)


def test_same_content_gives_the_same_bytes(tmp_path: Path, facts: BagFacts) -> None:
    for name in ("a.h5", "b.h5"):
        write_bag(tmp_path / name, [features()], COORDS_YX, facts)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_empty_bag(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "empty.h5"
    write_bag(path, [np.empty((0, 9), np.float16)], np.empty((0, 2), np.int64), facts)
    assert read_header(path).dim == 9
    assert read_features(path).shape == feature_rows(path).shape == (0, 9)
    assert read_coords(path).shape == (0, 2)
    assert is_intact(path)


@pytest.mark.parametrize(("value", "told"), [(np.nan, "NaN"), (np.inf, "infinite"), (1e6, "beyond float16's 65504")])
def test_unusable_value_names_the_tile_and_leaves_nothing(
    tmp_path: Path, facts: BagFacts, value: float, told: str
) -> None:
    rows = features()
    rows[1, 4] = value
    with pytest.raises(BagError, match=rf"feature 4 of tile 1 at level-0 \(y, x\) = \(512, 0\) is .*{told}"):
        write_bag(tmp_path / "bag.h5", [rows[:1], rows[1:]], COORDS_YX, facts)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_value_that_float16_holds_is_kept(tmp_path: Path, facts: BagFacts) -> None:
    rows = features().astype(np.float16)
    rows[1, 4], rows[2, 0] = 65504, -65504
    write_bag(tmp_path / "bag.h5", [rows], COORDS_YX, facts)
    np.testing.assert_array_equal(read_features(tmp_path / "bag.h5"), rows)


def test_failed_write_keeps_the_old_bag(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [features()], COORDS_YX, facts)
    before = path.read_bytes()
    with pytest.raises(BagError):
        write_bag(path, [np.full((3, 5), np.nan)], COORDS_YX, facts)
    assert path.read_bytes() == before


def test_row_counts_must_agree(tmp_path: Path, facts: BagFacts) -> None:
    with pytest.raises(BagError, match="one \\(y, x\\) per tile"):
        write_bag(tmp_path / "bag.h5", [features(4)], COORDS_YX, facts)


def test_flipped_bit_and_truncation_are_seen(tmp_path: Path, facts: BagFacts) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [features(64, 64)], np.zeros((64, 2), np.int64), facts)
    whole = bytearray(path.read_bytes())
    with h5py.File(path, "r") as file:
        offset = file["features"].id.get_offset()
    whole[offset + 100] ^= 1
    path.write_bytes(whole)
    assert not is_intact(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert not is_intact(path)
    with pytest.raises(BagError, match=r"bag\.h5: expected a whole HDF5 file"):
        read_header(path)


def test_clam_form(tmp_path: Path) -> None:
    path = tmp_path / "slide_1.h5"
    with h5py.File(path, "w") as file:
        file["features"] = features(4, 6)
        file["coords"] = np.array([[0, 0], [512, 0], [1536, 0], [0, 1024]], np.int32)
    header = read_header(path)
    assert (header.image_id, header.dim, header.encoder, header.recipe) == ("slide_1", 6, "", {})
    assert header.tile_px_l0 == 512.0
    assert (header.level0_shape_yx, header.mpp) == (None, None)
    np.testing.assert_array_equal(read_coords(path), [[0, 0], [0, 512], [0, 1536], [1024, 0]])
    assert read_features(path).dtype == np.float32


def test_trident_form(tmp_path: Path) -> None:
    path = tmp_path / "slide_1.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features(3, 6), chunks=(1, 6)).attrs["encoder"] = "uni_v1"
        coords = file.create_dataset("coords", data=COORDS_YX[:, ::-1])
        coords.attrs.update({"patch_size_level0": 448, "level0_width": 90, "level0_height": 80})
    header = read_header(path)
    assert (header.encoder, header.tile_px_l0, header.level0_shape_yx) == ("uni_v1", 448.0, (80, 90))
    np.testing.assert_array_equal(read_coords(path), COORDS_YX)


def test_stamp_form(tmp_path: Path) -> None:
    path = tmp_path / "slide_1.h5"
    with h5py.File(path, "w") as file:
        file["feats"] = features(2, 6).astype(np.float16)
        file["coords"] = np.array([[256.0, 0.0], [0.0, 512.0]], np.float32)
        file.attrs.update({"extractor": "ctranspath", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224})
    header = read_header(path)
    assert (header.encoder, header.tile_px_l0) == ("ctranspath", 0.0)
    assert header.mpp == pytest.approx(256 / 224)
    np.testing.assert_array_equal(read_coords(path, l0_mpp=0.25), [[0, 1024], [2048, 0]])
    with pytest.raises(BagError, match="micrometres"):
        read_coords(path)


def test_leading_axis_and_other_key(tmp_path: Path) -> None:
    path = tmp_path / "slide_1.h5"
    with h5py.File(path, "w") as file:
        file["patch_embeddings"] = features(3, 6).astype(np.float64)[None]
        file["coords"] = COORDS_YX[None, :, ::-1]
    assert (read_header(path).n_tiles, read_header(path).dim) == (3, 6)
    assert read_features(path).shape == feature_rows(path).shape == (3, 6)
    np.testing.assert_array_equal(read_coords(path), COORDS_YX)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"x": np.zeros(3)}, "expected a dataset features or feats"),
        ({"features": np.zeros((3, 4), np.int32)}, "floats of shape"),
        ({"features": np.zeros((2, 3, 4)), "coords": np.zeros((3, 2))}, "floats of shape"),
        ({"features": np.zeros((3, 4)), "coords": np.zeros((2, 2))}, "as many coordinates as features"),
    ],
)
def test_what_is_no_bag_is_told(tmp_path: Path, content: dict[str, np.ndarray], told: str) -> None:
    with h5py.File(tmp_path / "bag.h5", "w") as file:
        for name, value in content.items():
            file[name] = value
    with pytest.raises(BagError, match=told):
        read_header(tmp_path / "bag.h5")


def test_foreign_nan_is_found_on_reading(tmp_path: Path) -> None:
    rows = features(3, 4)
    rows[2, 0] = np.nan
    with h5py.File(tmp_path / "bag.h5", "w") as file:
        file["features"] = rows
    with pytest.raises(BagError, match="feature 0 of tile 2 is NaN"):
        read_features(tmp_path / "bag.h5")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="found no file"):
        read_header(tmp_path / "none.h5")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(0, 40), dim=st.integers(1, 9))
def test_any_rows_in_any_blocks_come_back(
    tmp_path: Path, facts: BagFacts, data: st.DataObject, n: int, dim: int
) -> None:
    rows = data.draw(arrays(np.float16, (n, dim), elements=st.floats(-6e4, 6e4, width=16)))
    coords = data.draw(arrays(np.int64, (n, 2), elements=st.integers(0, 2**40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    path = tmp_path / "bag.h5"
    write_bag(path, np.split(rows, cuts), coords, facts)
    np.testing.assert_array_equal(read_features(path), rows)
    np.testing.assert_array_equal(feature_rows(path), rows)
    np.testing.assert_array_equal(read_coords(path), coords)
    assert is_intact(path)


def test_nominal_power() -> None:
    assert [nominal_power(mpp) for mpp in (0.2462, 0.5, 0.503, 1.0, 8.0)] == [40, 20, 20, 10, 1.25]


def test_find_bags(tmp_path: Path, facts: BagFacts) -> None:
    for name in ("b", "a", ".hidden"):
        write_bag(tmp_path / "bags" / f"{name}.h5", [features()], COORDS_YX, dataclasses.replace(facts, image_id=name))
    assert [path.stem for path in find_bags([tmp_path / "bags"])] == ["a", "b"]
    assert find_bags([tmp_path / "bags" / "b.h5"]) == [tmp_path / "bags" / "b.h5"]
    write_bag(tmp_path / "other" / "a.h5", [features()], COORDS_YX, facts)
    with pytest.raises(RequestError, match="two bags are named a"):
        find_bags([tmp_path / "bags", tmp_path / "other"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no bag"):
        find_bags([tmp_path / "empty"])
    with pytest.raises(RequestError, match="found nothing"):
        find_bags([tmp_path / "nowhere"])
