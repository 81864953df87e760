"""Verifying bags, and bags in the hands of other tools: each reads ours with its own few lines."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from cli.app import app
from features.bags.bag import find_bags, read_coords, read_features, read_header
from features.bags.options import StampOptions, VerifyBagsOptions
from features.bags.stamp import export_stamp
from features.bags.verify import verify_bags
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.progress.outcome import Status


@pytest.fixture(scope="module")
def bags(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags of three slides."""
    out = tmp_path_factory.mktemp("bags")
    assert extract(ExtractOptions(stores=(stores,), out=out)).exit_code == 0
    return out


@pytest.fixture
def damaged(bags: Path, tmp_path: Path) -> Path:
    """A bag to damage."""
    path = tmp_path / "049194_0.h5"
    path.write_bytes((bags / path.name).read_bytes())
    return path


def reason_of(path: Path) -> str:
    (outcome,) = verify_bags(VerifyBagsOptions(bags=(path,))).outcomes
    assert outcome.status is Status.FAILED
    return outcome.reason


def test_whole_bags_pass(bags: Path) -> None:
    summary = verify_bags(VerifyBagsOptions(bags=(bags,)))
    assert summary.exit_code == 0
    assert len(summary.outcomes) == 3


def test_one_changed_bit_is_found(damaged: Path) -> None:
    with h5py.File(damaged, "r+") as file:
        file["features"][3, 5] += np.float16(0.5)
    assert "its rows are not those that were written (sha256)" in reason_of(damaged)


def test_a_feature_that_is_not_finite_is_named(damaged: Path) -> None:
    with h5py.File(damaged, "r+") as file:
        file["features"][3, 5] = np.nan
    assert "feature 5 of tile 3 is NaN" in reason_of(damaged)


def test_a_truncated_bag_is_found(damaged: Path) -> None:
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert "expected a whole HDF5 file" in reason_of(damaged)


def test_a_changed_recipe_is_found(damaged: Path) -> None:
    with h5py.File(damaged, "r+") as file:
        file.attrs["recipe"] = file.attrs["recipe"].replace("fp32", "fp16")
    assert "its recipe is not the one of its hash" in reason_of(damaged)


def test_tiles_twice_and_tiles_beside_the_slide_are_found_in_any_tools_bags(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    for xy, told in (
        ([[0, 0], [0, 0]], "expected 2 different tiles, found 1"),
        ([[0, 0], [900, 0]], "not on the slide"),
    ):
        with h5py.File(path, "w") as file:
            file["features"] = np.ones((2, 4), np.float32)
            file["coords"] = np.array(xy)
            file["coords"].attrs.update({"level0_width": 800, "level0_height": 600, "patch_size_level0": 256})
        assert told in reason_of(path)


def test_the_command_tells_bags_from_stores(bags: Path, stores: Path, damaged: Path) -> None:
    assert CliRunner().invoke(app, ["verify", str(bags)]).exit_code == 0
    assert CliRunner().invoke(app, ["verify", str(stores)]).exit_code == 0
    with h5py.File(damaged, "r+") as file:
        file["features"][0, 0] = np.inf
    assert CliRunner().invoke(app, ["verify", str(damaged)]).exit_code == 1
    both = CliRunner().invoke(app, ["verify", str(bags), str(stores)])
    assert both.exit_code == 2


def test_clams_lines_read_ours(bags: Path) -> None:
    for path in find_bags([bags]):
        with h5py.File(path, "r") as file:  # its feature dataset, and its heat map's
            features, coords = file["features"][:], file["coords"][:]
        assert features.shape == (len(coords), read_header(path).dim)
        np.testing.assert_array_equal(coords, read_coords(path)[:, ::-1])


def test_tridents_lines_read_ours(bags: Path) -> None:
    for path in find_bags([bags]):
        tile_px_l0 = read_header(path).tile_px_l0
        with h5py.File(path, "r") as file:
            coords = file["coords"]
            side, side_l0 = coords.attrs["patch_size"], coords.attrs["patch_size_level0"]
            width, height = coords.attrs["level0_width"], coords.attrs["level0_height"]
            assert ((coords[:] >= 0) & (coords[:] < [width, height])).all()
            assert (side, side_l0 / side) == (256, tile_px_l0 / 256)
            assert file["features"].attrs["encoder"] == "texture"


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_torchmils_own_dataset_loads_ours(bags: Path) -> None:
    datasets = pytest.importorskip("torchmil.datasets")
    dataset = datasets.ProcessedMILDataset(
        features_path=str(bags),
        coords_path=str(bags),
        bag_keys=["X", "coords", "adj"],
        file_ext=".h5",
        dist_thr=300.0,
        verbose=False,
    )
    assert len(dataset) == 3
    for number, path in enumerate(find_bags([bags])):
        bag = dataset[number]
        np.testing.assert_array_equal(bag["X"].numpy(), read_features(path).astype(np.float32))
        np.testing.assert_array_equal(bag["coords"].numpy(), read_coords(path)[:, ::-1])


def test_stamps_lines_read_the_export_and_we_read_it_back(bags: Path, tmp_path: Path) -> None:
    summary = export_stamp(StampOptions(bags=(bags,), out=tmp_path))
    assert summary.exit_code == 0
    for path in find_bags([bags]):
        header, exported = read_header(path), tmp_path / path.name
        with h5py.File(exported, "r") as file:
            feats, coords_um = file["feats"][:], file["coords"][:]
            assert file.attrs["unit"] == "um"
            assert file.attrs["feat_type"] == "tile"
            tile_um, tile_px = file.attrs["tile_size_um"], file.attrs["tile_size_px"]
        assert header.mpp is not None
        assert (tile_px, tile_um) == (256, pytest.approx(256 * header.mpp))
        np.testing.assert_array_equal(feats, read_features(path))
        l0_mpp = tile_um / header.tile_px_l0
        np.testing.assert_allclose(coords_um / l0_mpp, read_coords(path)[:, ::-1], atol=0.01)
        np.testing.assert_array_equal(read_coords(exported, l0_mpp=l0_mpp), read_coords(path))
        assert read_header(exported).mpp == pytest.approx(header.mpp)
    assert verify_bags(VerifyBagsOptions(bags=(tmp_path,))).exit_code == 0
    again = export_stamp(StampOptions(bags=(bags,), out=tmp_path))
    assert {outcome.status for outcome in again.outcomes} == {Status.SKIPPED}
    onto_itself = export_stamp(StampOptions(bags=(bags,), out=bags, overwrite=True))
    assert {outcome.status for outcome in onto_itself.outcomes} == {Status.FAILED}


def test_bags_without_a_form_are_refused_in_one_line(bags: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["export", str(bags), "--out", str(tmp_path / "x")])
    assert told.exit_code == 2
    done = CliRunner().invoke(app, ["export", str(bags), "--stamp", "--out", str(tmp_path / "y")])
    assert done.exit_code == 0
    assert len(list((tmp_path / "y").glob("*.h5"))) == 3
