"""Tile scores as OME-Zarr: valid by other people's checks, over the slide where its tiles are, read back exactly."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from making import SEED
from witness import Trained, facts, instances

import wsi.zarr_jpeg  # noqa: F401
from features.bags.bag import read_header, write_bag
from mil.data.splits import known_slides
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import HeatmapOptions
from mil.heatmaps.scores_zarr import deciles, is_scores_zarr
from mil.heatmaps.tile_scores import TileScores, tile_scores
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore

yaozarrs = pytest.importorskip("yaozarrs")

NEW = "0077_7"


@pytest.fixture(scope="module")
def made(
    trained: Trained, second_store: TileStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HeatmapOptions, TileScores]:
    folder, image_id = tmp_path_factory.mktemp("scores"), second_store.image_id
    rows = instances(np.random.default_rng(SEED), second_store.n_tiles, positive=True)
    write_bag(folder / f"{image_id}.h5", [rows], second_store.coords_l0_yx(), facts(image_id))
    options = HeatmapOptions(
        run=trained.out, bags=(folder,), stores=(Path(second_store.path),), out=folder / "maps", ome_zarr=True
    )
    assert heatmap(options).exit_code == 0
    ensemble = load_ensemble(RunFolder(trained.out), "cpu")
    found = tile_scores(ensemble, read_header(folder / f"{image_id}.h5"), second_store, known_slides(trained.out))
    return options, found


def image_of(options: HeatmapOptions) -> Path:
    (image,) = options.out.glob("*.scores.zarr")
    return image


def test_the_image_is_valid_and_holds_the_scores(made: tuple[HeatmapOptions, TileScores]) -> None:
    options, scores = made
    yaozarrs.validate_zarr_store(str(image_of(options)))
    group = zarr.open_group(image_of(options), mode="r")
    pixels, channels = np.asarray(group["0"]), group.attrs["ome"]["omero"]["channels"]
    assert pixels.dtype == np.float32
    names = [channel["label"] for channel in channels]
    assert names[0] == "attention, times the slide's mean"
    assert names[-2:] == ["push towards CE", "push towards LAA"]
    assert names[3] == "disagreement of the models"
    rows, columns = scores.tiles_yx.T
    wanted = [scores.factor_N, scores.percentile_N, scores.attention_N, scores.disagreement_N, *scores.push_CN]  # type: ignore[misc]
    for channel, values in zip(pixels, wanted, strict=True):
        np.testing.assert_array_equal(channel[rows, columns], np.asarray(values, np.float32))
    assert np.isfinite(pixels[0]).sum() == len(scores)
    assert [channel["active"] for channel in channels] == [True] + [False] * (len(channels) - 1)
    for channel, values in zip(channels, wanted, strict=True):
        window = channel["window"]
        assert window["min"] <= window["start"] < window["end"] or window["start"] == -window["end"]
        assert window["min"] <= values.min()
        assert values.max() <= window["max"]


def test_pixels_lie_over_the_tiles_of_the_store(
    made: tuple[HeatmapOptions, TileScores], second_store: TileStore
) -> None:
    """The frame is the store's, whose pixel centres lie at multiples of its um/px: a tile's first and last bound it."""
    options, scores = made
    ome = zarr.open_group(image_of(options), mode="r").attrs["ome"]
    transforms = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    scale, translation = transforms[0]["scale"], transforms[1]["translation"]
    side, mpp = second_store.tile_px, second_store.mpp
    for row, column in scores.tiles_yx[[0, -1]]:
        for index, axis in ((row, 1), (column, 2)):
            centre = index * scale[axis] + translation[axis]
            first, last = index * side * mpp, (index * side + side - 1) * mpp
            assert centre == pytest.approx((first + last) / 2)
    assert scale[1] == pytest.approx(side * mpp)
    assert ome["multiscales"][0]["axes"][1]["unit"] == "micrometer"


def test_the_label_tells_tenths_of_the_tiles(made: tuple[HeatmapOptions, TileScores]) -> None:
    options, scores = made
    group = zarr.open_group(image_of(options), mode="r")
    label = np.asarray(group["labels/deciles/0"])
    assert np.count_nonzero(label) == len(scores)
    rows, columns = scores.tiles_yx.T
    np.testing.assert_array_equal(label[rows, columns], deciles(scores))
    order = np.argsort(scores.attention_N)
    assert (np.diff(label[rows, columns][order].astype(int)) >= 0).all()
    colours = group["labels/deciles"].attrs["ome"]["image-label"]["colors"]
    assert [own["label-value"] for own in colours] == list(range(1, 11))
    percent = replace(scores, percentile_N=np.linspace(0, 1, 101))
    assert np.bincount(deciles(percent))[1:].tolist() == [11, *[10] * 9]


def test_the_models_validate_and_another_reader_reads_it(made: tuple[HeatmapOptions, TileScores]) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    options, scores = made
    location = parse_url(image_of(options))
    assert location is not None
    image = next(iter(Reader(location)()))
    pixels = np.asarray(image.data[0])
    row, column = scores.tiles_yx[0]
    assert pixels[0, row, column] == np.float32(scores.factor_N[0])


def test_it_is_skipped_made_again_when_gone_and_never_put_over_anything_else(
    made: tuple[HeatmapOptions, TileScores], tmp_path: Path
) -> None:
    options, _ = made
    image = image_of(options)
    assert heatmap(options).outcomes[0].status is Status.SKIPPED
    shutil.move(image, tmp_path / "away")
    assert heatmap(options).outcomes[0].status is Status.DONE
    assert is_scores_zarr(image)
    shutil.move(image, tmp_path / "away2")
    image.mkdir()
    (image / "mine.txt").write_text("mine")
    assert "shows something else" in heatmap(options).outcomes[0].reason
    assert "mine.txt" not in heatmap(replace(options, overwrite=True)).outcomes[0].reason
    assert (image / "mine.txt").read_text() == "mine", "not even with --overwrite: it is nothing of ours"
    (image / "mine.txt").unlink()
    image.rmdir()
    shutil.move(tmp_path / "away2", image)


def test_images_of_scores_do_not_lie_among_stores(
    made: tuple[HeatmapOptions, TileScores], second_store: TileStore
) -> None:
    options, _ = made
    with pytest.raises(RequestError, match="is the folder of the tile stores"):
        heatmap(replace(options, out=Path(second_store.path).parent))
