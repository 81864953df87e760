"""Files that hold several scans, and one that holds none."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from making import picture, write_ome_zarr

from wsi.cohort.slides import find_jobs
from wsi.errors import NotASlideError, UnreadableSlideError
from wsi.qc.info import describe_all
from wsi.qc.options import InfoOptions
from wsi.readers.protocol import Slide
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.units import Box

FIRST, SECOND = picture(600, 800, 1), picture(560, 800, 2)


def whole(slide: Slide) -> np.ndarray:
    return slide.read(0, Box(0, 0, *slide.levels[0].shape))


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label, scan, scan: the second scan has other um/px and its own two levels."""
    path = tmp_path_factory.mktemp("scenes") / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, pixels, mpp in (("label image", FIRST[:150, :100], 9.0), ("A", FIRST, 0.5), ("B", SECOND, 0.25)):
            options = {"axes": "YXS", "Name": name, "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            tiff.write(pixels, photometric="rgb", tile=(128, 128), metadata=options, subifds=int(name == "B"))
            if name == "B":
                tiff.write(pixels[::2, ::2], photometric="rgb", tile=(128, 128), subfiletype=1)
    return path


def test_the_largest_scene_is_read_and_any_can_be_chosen(two_scenes: Path) -> None:
    default, second = open_slide(two_scenes), open_slide(two_scenes, scene=2)
    assert (default.scene, [(s.index, s.name) for s in default.scenes]) == (1, [(1, "A"), (2, "B")])
    np.testing.assert_array_equal(whole(default), tifffile.imread(two_scenes, series=1))
    np.testing.assert_array_equal(whole(second), tifffile.imread(two_scenes, series=2))
    assert [level.downsample for level in second.levels] == [1, 2]
    assert (default.mpp_claims[0].mpp_yx, second.mpp_claims[0].mpp_yx) == ((0.5, 0.5), (0.25, 0.25))
    assert any(note.startswith("scene 1 (800 x 600 px) of 2 is read") for note in default.notes)
    assert not any("A" in note.split() for note in default.notes)  # notes are kept in stores, names are not


@pytest.mark.parametrize("scene", [0, 3])
def test_no_reader_takes_the_label_for_a_scene(two_scenes: Path, scene: int) -> None:
    with pytest.raises(NotASlideError, match=f"--scene {scene}: the file has no such scene, only 1, 2"):
        open_slide(two_scenes, scene=scene)
    with pytest.raises(UnreadableSlideError, match="first picture alone"):
        open_slide(two_scenes, "openslide")


def test_info_lists_the_scenes_by_name(two_scenes: Path) -> None:
    (row,) = describe_all(InfoOptions(slides=(two_scenes,), scene=2))
    assert row["size"] == "800 x 560"
    assert "scenes: 1 'A' 800 x 600, 2 'B' 800 x 560" in row["notes"]


def test_the_scene_is_tiled_and_stands_in_the_recipe(tmp_path: Path, two_scenes: Path) -> None:
    summary = tile(TileOptions(slides=(two_scenes,), out=tmp_path, scene=2, target_mpp=0.25, workers=0))
    assert summary.outcomes[0].reason.startswith("scene 2 (800 x 560 px) of 2 is read")
    store = TileStore(next(tmp_path.glob("*.zarr")))
    assert store.recipe["scene"] == 2
    assert store.slide_shape_yx == (560, 800)
    (at,) = (i for i, yx in enumerate(store.tiles_yx.tolist()) if yx == [0, 0])
    np.testing.assert_array_equal(store.read_tiles([at])[0].transpose(1, 2, 0), SECOND[:256, :256])
    assert "scene" not in TileOptions(slides=(two_scenes,), out=tmp_path).recipe()


def test_pages_of_one_size_are_scenes_and_levels_are_none(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for pixels in (FIRST, SECOND[::-1], FIRST[::4, ::4]):
            tiff.write(np.resize(pixels, (600, 800, 3)) if len(pixels) > 300 else pixels, photometric="rgb",
                       tile=(64, 64), metadata=None)  # fmt: skip
    first, second = open_slide(tmp_path / "a.tif"), open_slide(tmp_path / "a.tif", scene=1)
    assert [s.index for s in first.scenes] == [0, 1]
    np.testing.assert_array_equal(whole(first), FIRST)
    np.testing.assert_array_equal(whole(second), np.resize(SECOND[::-1], (600, 800, 3)))
    assert any("of 2 is read" in note for note in open_slide(tmp_path / "a.tif", "openslide").notes)


@pytest.mark.parametrize("axes", ["CYX", "ZYXS"])
def test_the_first_plane_of_many_is_no_slide(tmp_path: Path, axes: str) -> None:
    """OpenSlide would read it as one, without a word."""
    planes = np.stack([FIRST[..., 0]] * 3) if axes == "CYX" else np.stack([FIRST] * 3)
    options = {"photometric": "minisblack" if axes == "CYX" else "rgb", "tile": (64, 64), "metadata": {"axes": axes}}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, **options)
    for reader in (None, "openslide"):
        with pytest.raises(NotASlideError, match=f"holds 3 planes, {axes} .*: expected one RGB or grey image; write"):
            open_slide(tmp_path / "a.ome.tif", reader)


def test_groups_of_an_ome_zarr_are_scenes(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    for name in "01":
        write_ome_zarr(tmp_path / "a.zarr" / name)
    array = zarr.open_array(tmp_path / "a.zarr" / "1" / "0", mode="r+")
    array[:] = 255 - np.asarray(array[:])
    first, second = (open_slide(tmp_path / "a.zarr", scene=scene) for scene in (None, 1))
    assert (first.scene, second.scene, len(first.scenes)) == (0, 1, 2)
    np.testing.assert_array_equal(whole(first), 255 - whole(second))
    with pytest.raises(NotASlideError, match="only 0, 1"):
        open_slide(tmp_path / "a.zarr", scene=2)


def test_a_file_of_one_scene_has_no_other(tmp_path: Path, deflate_slide: Path) -> None:
    for slide in (deflate_slide, write_ome_zarr(tmp_path / "a.zarr")):
        assert len(open_slide(slide, scene=0).scenes) <= 1
        with pytest.raises(NotASlideError, match="--scene 1"):
            open_slide(slide, scene=1)


@pytest.mark.parametrize("there", [False, True])
def test_a_vsi_is_no_slide_of_its_own(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "s.VSI"
    tifffile.imwrite(path, picture(512, 501), photometric="rgb")
    if there:
        (tmp_path / "_s_" / "stack1").mkdir(parents=True)
        (tmp_path / "_s_" / "stack1" / "frame_t.ets").write_bytes(b"SIS")
    for reader in ("tiff", "openslide"):
        with pytest.raises(NotASlideError, match=r"\.ets files of _s_/") as caught:
            open_slide(path, reader)
        assert ("missing" in str(caught.value)) is not there
    with pytest.raises(UnreadableSlideError, match="vsi: broken VSI" if there else "_s_ is missing"):
        open_slide(path)


def test_an_isyntax_in_a_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.isyntax").write_bytes(b"<DataObject>")
    (job,) = find_jobs([tmp_path], None)
    with pytest.raises(NotASlideError, match=r"a\.isyntax: Philips iSyntax is not read: export the slide as TIFF"):
        open_slide(job.path)


def test_a_real_vsi_is_refused_with_the_folder(real_slides: Path) -> None:
    path = real_slides.parent / "cases" / "vsi-ets-test-jpg2k.vsi"
    if not path.exists():
        pytest.skip("no shared cases")
    with pytest.raises(NotASlideError, match="_vsi-ets-test-jpg2k_ is missing"):
        open_slide(path)


def test_floating_point_is_told_in_one_line(real_slides: Path) -> None:
    with pytest.raises(NotASlideError) as caught:
        open_slide(real_slides / "edge" / "gray.tiled.f4.tif")
    assert str(caught.value) == (
        "gray.tiled.f4.tif cannot be read: samples of 32 bits, floating point: expected whole numbers of 8 or 16 bits "
        "without a sign; convert the picture to 8 bits"
    )
