"""One bag that cannot be read is named with its reason; the others are drawn and looked up all the same."""

import shutil
from pathlib import Path

import pytest
from witness import Trained

from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import HeatmapOptions
from mil.inference.options import SimilarOptions
from mil.inference.similar import similar
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore


@pytest.fixture
def bags(trained: Trained, small_store: TileStore, tmp_path: Path) -> Path:
    """The slide that has a store, another one, one that is cut short, and one that is no bag at all."""
    folder = tmp_path / "bags"
    folder.mkdir()
    for name in (small_store.image_id, "0000_0", "0001_0"):
        shutil.copy(trained.witness.bags / f"{name}.h5", folder)
    whole = (folder / "0001_0.h5").read_bytes()
    (folder / "0001_0.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "none_0.h5").write_bytes(b"no bag")
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_a_bad_bag_does_not_stop_the_heat_maps(
    trained: Trained, small_store: TileStore, bags: Path, tmp_path: Path, named: bool
) -> None:
    ids = (small_store.image_id, "0001_0") if named else ()
    options = HeatmapOptions(
        run=trained.out,
        bags=(bags,),
        stores=(Path(small_store.path),),
        out=tmp_path / "maps",
        image_ids=ids,
        device="cpu",
    )
    outcomes = {own.item_id: own for own in heatmap(options).outcomes}
    assert outcomes.pop(small_store.image_id).status is Status.DONE
    assert (tmp_path / "maps" / f"{small_store.image_id}.png").is_file()
    assert {name: own.status for name, own in outcomes.items()} == ({"0001_0": Status.FAILED} if named else {})
    assert all("0001_0.h5" in own.reason for own in outcomes.values())


def test_a_slide_whose_only_bag_is_bad_is_named(
    trained: Trained, small_store: TileStore, bags: Path, tmp_path: Path
) -> None:
    (bags / f"{small_store.image_id}.h5").write_bytes(b"no bag")
    options = HeatmapOptions(run=trained.out, bags=(bags,), stores=(Path(small_store.path),), out=tmp_path / "maps")
    summary = heatmap(options)
    assert [own.item_id for own in summary.ended(Status.FAILED)] == [small_store.image_id]
    assert summary.exit_code == 1


def test_a_bad_bag_does_not_stop_the_look_up(trained: Trained, bags: Path, tmp_path: Path) -> None:
    options = SimilarOptions(run=trained.out, bags=(bags,), known=(trained.witness.bags,), out=tmp_path / "s.csv")
    summary = similar(options)
    assert {own.item_id for own in summary.ended(Status.FAILED)} == {"0001_0", "none_0"}
    assert summary.ended(Status.DONE)
