"""Packs, against the bags that went into them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from witness import facts, grid

from features.bags.bag import BagHeader, find_bags, is_pack, read_coords, read_features, read_header, write_bag
from features.bags.options import PackOptions, VerifyBagsOptions
from features.bags.pack import pack_bags
from features.bags.verify import verify_bags
from wsi.errors import RequestError
from wsi.progress.outcome import Status


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    folder = tmp_path / "bags"
    for number, n_tiles in enumerate((30, 0, 7)):
        rows = np.random.default_rng(number).normal(size=(n_tiles, 5)).astype(np.float16)
        write_bag(folder / f"s{number}.h5", [rows], grid(n_tiles), facts(f"s{number}"))
    with h5py.File(folder / "clam.h5", "w") as file:  # another tool's
        file["features"] = np.ones((4, 5), np.float32)
        file["coords"] = grid(4)
        file["note"] = "not a part of the bag"
    return folder


def told(header: BagHeader) -> tuple[object, ...]:
    return header.image_id, header.encoder, header.recipe, header.provenance, header.mpp, header.content_sha256


def test_a_pack_is_read_like_the_folder(bags: Path, tmp_path: Path) -> None:
    pack = tmp_path / "all.h5"
    assert pack_bags(PackOptions(bags=(bags,), out=pack)).exit_code == 0
    assert is_pack(pack)
    assert not is_pack(bags / "s0.h5")
    assert [path.name for path in find_bags([pack])] == [path.name for path in find_bags([bags])]
    for alone, together in zip(find_bags([bags]), find_bags([pack]), strict=True):
        assert told(read_header(alone)) == told(read_header(together))
        np.testing.assert_array_equal(read_features(alone), read_features(together))
        np.testing.assert_array_equal(read_coords(alone), read_coords(together))
    assert {own.status for own in verify_bags(VerifyBagsOptions(bags=(pack,))).outcomes} == {Status.DONE}
    assert find_bags([pack / "s0.h5"]) == [pack / "s0.h5"]


def test_it_is_taken_apart_into_the_same_bags(bags: Path, tmp_path: Path) -> None:
    pack, out = tmp_path / "all.h5", tmp_path / "again"
    pack_bags(PackOptions(bags=(bags,), out=pack))
    assert pack_bags(PackOptions(bags=(pack,), out=out, unpack=True)).exit_code == 0
    for name in ("s0", "s1", "s2", "clam"):
        with h5py.File(bags / f"{name}.h5") as old, h5py.File(out / f"{name}.h5") as new:
            assert sorted(new) == sorted(set(old) - {"note"})
            assert dict(old.attrs) == dict(new.attrs)
            for key in new:
                np.testing.assert_array_equal(old[key][()], new[key][()])
                assert (old[key].dtype, old[key].chunks) == (new[key].dtype, new[key].chunks)
    again = pack_bags(PackOptions(bags=(pack,), out=out, unpack=True))
    assert {own.status for own in again.outcomes} == {Status.SKIPPED}
    write_bag(out / "s0.h5", [np.zeros((2, 5), np.float16)], grid(2), facts("s0"))
    (failed,) = pack_bags(PackOptions(bags=(pack,), out=out, unpack=True)).ended(Status.FAILED)
    assert "is not this bag" in failed.reason


def test_it_is_skipped_refused_or_replaced(bags: Path, tmp_path: Path) -> None:
    pack = tmp_path / "all.h5"
    pack_bags(PackOptions(bags=(bags,), out=pack))
    before = pack.stat().st_mtime_ns
    assert {own.status for own in pack_bags(PackOptions(bags=(bags,), out=pack)).outcomes} == {Status.SKIPPED}
    assert pack.stat().st_mtime_ns == before
    write_bag(bags / "s0.h5", [np.zeros((2, 5), np.float16)], grid(2), facts("s0"))
    with pytest.raises(RequestError, match="not the pack of these bags"):
        pack_bags(PackOptions(bags=(bags,), out=pack))
    assert pack_bags(PackOptions(bags=(bags,), out=pack, overwrite=True)).exit_code == 0
    assert read_header(pack / "s0.h5").n_tiles == 2
    with pytest.raises(RequestError, match="was not made by gigamil"):
        pack_bags(PackOptions(bags=(bags / "s1.h5",), out=bags / "s0.h5", overwrite=True))


def test_a_damaged_bag_is_named_and_left_out(bags: Path, tmp_path: Path) -> None:
    with h5py.File(bags / "s0.h5", "r+") as file:
        file["features"][3, 1] += 1
    summary = pack_bags(PackOptions(bags=(bags,), out=tmp_path / "all.h5"))
    assert summary.exit_code == 1
    (failed,) = summary.ended(Status.FAILED)
    assert failed.item_id == "s0"
    assert [path.stem for path in find_bags([tmp_path / "all.h5"])] == ["clam", "s1", "s2"]


def test_wrong_requests_are_told(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ends in \.h5"):
        pack_bags(PackOptions(bags=(bags,), out=tmp_path / "all.pack"))
    with pytest.raises(RequestError, match="expected a bag"):
        find_bags([tmp_path / "nowhere" / "s0.h5"])
    pack_bags(PackOptions(bags=(bags,), out=tmp_path / "all.h5"))
    from wsi.errors import BagError

    with pytest.raises(BagError, match="found none"):
        read_header(tmp_path / "all.h5" / "s9.h5")
