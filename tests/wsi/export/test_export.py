"""Exports: other programs open them and see the store's very pixels; nothing private, nothing half-written."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import yaozarrs
import zarr
from making import picture, write_pyramid
from ome_zarr_models.v04.image import Image
from PIL import ImageCms

from wsi.errors import RecipeMismatchError, RequestError, StoreError
from wsi.export.jpeg_form import JpegForm, jpeg_form
from wsi.export.ome_tiff import export_ome_tiff
from wsi.export.ome_zarr import export_ome_zarr
from wsi.export.options import OmeTiffOptions, OmeZarrOptions, RecodedOptions
from wsi.export.recoded import export_recoded
from wsi.machine.ordered import ordered
from wsi.progress.outcome import Status
from wsi.store.codecs import codec
from wsi.store.layout import shard_path
from wsi.store.options import VerifyOptions
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@pytest.fixture(scope="module")
def as_zarr(tmp_path_factory: pytest.TempPathFactory, small_store: TileStore) -> Path:
    out = tmp_path_factory.mktemp("export") / "a.zarr"
    summary = export_ome_zarr(OmeZarrOptions(store=small_store.path, out=out, threads=2))
    assert summary.outcomes[0].status is Status.DONE
    return out


@pytest.fixture(scope="module")
def jpeg_store(tmp_path_factory: pytest.TempPathFactory, tiled: Callable[..., TileStore]) -> TileStore:
    """Level 0 holds JPEG tiles copied from the slide; the levels below are made from them."""
    folder = tmp_path_factory.mktemp("jpeg")
    slide = write_pyramid(folder / "j.tif", picture(1100, 1300), levels=1, photometric="rgb")
    store = tiled(slide, folder, codec="auto", assume_mpp=None)
    assert store.codec_names[:2] == ("jpeg", "jpeg")
    return store


def test_ome_zarr_04_is_valid(as_zarr: Path) -> None:
    yaozarrs.validate_zarr_store(str(as_zarr))
    yaozarrs.validate_zarr_store(str(as_zarr / "0"))
    Image.from_zarr(zarr.open_group(as_zarr / "0", mode="r"))
    assert json.loads((as_zarr / ".zattrs").read_text())["bioformats2raw.layout"] == 3
    assert {p.name for p in as_zarr.iterdir()} == {".zattrs", ".zgroup", "0", "OME"}


def test_ome_zarr_04_holds_the_stores_pixels(as_zarr: Path, small_store: TileStore) -> None:
    levels = small_store.grid.levels()
    for level in range(len(levels)):
        array = zarr.open_array(as_zarr / "0" / str(level), mode="r")
        assert array.metadata.zarr_format == 2
        np.testing.assert_array_equal(array[0, :, 0], small_store.read_level(level))
        if level:
            assert array.shape[3:] == tuple(side // 2 for side in levels[level - 1])


def test_ome_zarr_py_reads_it(as_zarr: Path, small_store: TileStore) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(str(as_zarr / "0"))
    assert location is not None
    image = next(iter(Reader(location)()))
    np.testing.assert_array_equal(np.asarray(image.data[1])[0, :, 0], small_store.read_level(1))


def test_the_ome_xml_makes_qupath_see_brightfield(as_zarr: Path, small_store: TileStore) -> None:
    pixels = ET.parse(as_zarr / "OME" / "METADATA.ome.xml").getroot().find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    assert (pixels.get("Type"), pixels.get("SizeC")) == ("uint8", "3")
    assert (pixels.get("SizeY"), pixels.get("SizeX")) == tuple(map(str, small_store.shape_yx))
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit")) == ("0.5", "µm")
    channels = [(c.get("Name"), int(c.get("Color", "")) % 2**32) for c in pixels.findall(f"{OME}Channel")]
    assert channels == [("Red", 0xFF0000FF), ("Green", 0x00FF00FF), ("Blue", 0x0000FFFF)]


@pytest.mark.parametrize("compression", ["auto", "zstd"])
def test_ome_tiff_is_one_image_with_all_levels_for_ome_readers(
    tmp_path: Path, small_store: TileStore, compression: str
) -> None:
    out = tmp_path / "a.ome.tiff"
    export_ome_tiff(OmeTiffOptions(store=small_store.path, out=out, compression=compression, threads=2))  # type: ignore[arg-type]
    with tifffile.TiffFile(out) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert len(series.levels) == len(small_store.grid.levels())
        for level, found in enumerate(series.levels):
            np.testing.assert_array_equal(found.asarray().transpose(2, 0, 1), small_store.read_level(level))
        chain = [page.offset for page in tiff.pages]
        assert not set(chain) & set(tiff.pages.first.subifds or ())
        pixels = ET.fromstring(tiff.pages.first.description).find(f"{OME}Image/{OME}Pixels")
    assert pixels is not None
    assert pixels.get("PhysicalSizeY") == "0.5"


@pytest.mark.parametrize("compression", ["auto", "jpeg"])
def test_openslide_sees_the_same_levels(tmp_path: Path, small_store: TileStore, compression: str) -> None:
    out = tmp_path / "a.ome.tif"
    export_ome_tiff(OmeTiffOptions(store=small_store.path, out=out, compression=compression, threads=1))  # type: ignore[arg-type]
    with openslide.OpenSlide(out) as slide:
        assert slide.level_dimensions == tuple((x, y) for y, x in small_store.grid.levels())
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert not slide.associated_images
        for level, size in enumerate(slide.level_dimensions):
            pixels = np.asarray(slide.read_region((0, 0), level, size))[..., :3].transpose(2, 0, 1).astype(int)
            error = np.abs(pixels - small_store.read_level(level))
            assert error.max() == 0 if compression == "auto" else error.mean() < 4


def test_a_bigtiff_is_linked_alike(tmp_path: Path, small_store: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi.export.ome_tiff._CLASSIC_LIMIT", 1)
    out = tmp_path / "a.ome.tiff"
    export_ome_tiff(OmeTiffOptions(store=small_store.path, out=out))
    with tifffile.TiffFile(out) as tiff:
        assert tiff.is_bigtiff
        assert len(tiff.series[0].levels) == len(small_store.grid.levels())
    with openslide.OpenSlide(out) as slide:
        assert slide.level_dimensions == tuple((x, y) for y, x in small_store.grid.levels())
        pixels = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))[..., :3]
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), small_store.read_level(1))


def test_jpeg_tiles_are_copied_undecoded(tmp_path: Path, jpeg_store: TileStore) -> None:
    out = tmp_path / "a.ome.tiff"
    summary = export_ome_tiff(OmeTiffOptions(store=jpeg_store.path, out=out))
    assert summary.outcomes[0].facts["compression"][:2] == ["jpeg, copied"] * 2
    row, column = jpeg_store.tiles_yx[2].tolist()
    side = jpeg_store.grid.shard_tiles(0)
    key = str(shard_path(Path(), 0, row // side, column // side))
    (chunk,) = jpeg_store.folder.chunks([(key, row % side * side + column % side)], side**2)
    assert chunk is not None
    with tifffile.TiffFile(out) as tiff:
        page = tiff.pages.first
        index = row * -(-page.imagewidth // 256) + column
        tiff.filehandle.seek(page.dataoffsets[index])
        assert tiff.filehandle.read(page.databytecounts[index]) == bytes(chunk)[:-4]  # without its checksum
        np.testing.assert_array_equal(page.asarray().transpose(2, 0, 1), jpeg_store.read_level(0))
    with openslide.OpenSlide(out) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), jpeg_store.read_level(0))


def test_jpeg_tiles_without_subsampling_are_written_as_libtiff_does(
    tmp_path: Path, deflate_slide: Path, tiled: Callable[..., TileStore]
) -> None:
    store = tiled(deflate_slide, tmp_path / "stores", codec="jpeg")
    export_ome_tiff(OmeTiffOptions(store=store.path, out=tmp_path / "a.ome.tiff"))
    with tifffile.TiffFile(tmp_path / "a.ome.tiff") as tiff:
        page = tiff.pages.first
        assert (page.photometric.name, page.subsampling) == ("YCBCR", (1, 1))
        tiff.filehandle.seek(page.dataoffsets[0])
        head = tiff.filehandle.read(4)
        assert head[:2] == b"\xff\xd8"
        assert head[3] not in {0xE0, 0xEE}
        np.testing.assert_array_equal(page.asarray().transpose(2, 0, 1), store.read_level(0))
    with openslide.OpenSlide(tmp_path / "a.ome.tiff") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))[..., :3]
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), store.read_level(1))


@pytest.mark.parametrize(
    "form", [JpegForm("rgb", (1, 1)), *(JpegForm("ycbcr", each) for each in ((1, 1), (2, 1), (2, 2)))]
)
def test_the_form_of_a_jpeg_is_read_back(form: JpegForm) -> None:
    assert jpeg_form(form.encode(picture(64, 64), 90)) == form
    assert jpeg_form(codec("zstd").encode(picture(64, 64))) is None


def test_nothing_but_the_id_and_sizes_leaves(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    secret = "Doe^Jane"
    slide = write_pyramid(tmp_path / "x.tif", picture(600, 600), levels=1, description=secret, software=secret)
    store = tiled(slide, tmp_path / "stores")
    export_ome_tiff(OmeTiffOptions(store=store.path, out=tmp_path / "out" / "x.ome.tiff"))
    export_ome_zarr(OmeZarrOptions(store=store.path, out=tmp_path / "out" / "x.zarr"))
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    for private in (secret, str(tmp_path)):
        assert private.encode() not in everything
    assert not list((tmp_path / "out").rglob("*overview*"))


def test_a_jpeg_store_becomes_one_without_jpeg(tmp_path: Path, jpeg_store: TileStore) -> None:
    out = tmp_path / "b.zarr"
    summary = export_recoded(RecodedOptions(store=jpeg_store.path, out=out, threads=2))
    assert summary.outcomes[0].facts["levels"] == len(jpeg_store.grid.levels())
    assert verify(VerifyOptions(stores=(out,), threads=1)).exit_code == 0
    yaozarrs.validate_zarr_store(str(out))
    found = TileStore(out)
    assert set(found.codec_names) == {"zstd"}
    for level in range(len(found.grid.levels())):
        array = zarr.open_array(out / str(level), mode="r")
        assert "jpeg" not in json.dumps(array.metadata.to_dict(), default=str)
        np.testing.assert_array_equal(array[...], jpeg_store.read_level(level))
        shards = [
            sorted(p.relative_to(own) for p in (own / str(level)).rglob("*")) for own in (out, Path(jpeg_store.path))
        ]
        assert shards[0] == shards[1]
    for name in ("tiles/yx", "tiles/tissue", "labels/tissue/0", "overview/0"):
        np.testing.assert_array_equal(found.read_array(name), jpeg_store.read_array(name))
    assert (found.recipe, found.recipe_hash) == (jpeg_store.recipe, jpeg_store.recipe_hash)
    assert found.provenance == jpeg_store.provenance | {"recoded": found.provenance["recoded"]}
    assert found.provenance["recoded"]["from"] == list(jpeg_store.codec_names)


def test_a_store_is_recoded_once_and_nothing_else_is_replaced(
    tmp_path: Path, jpeg_store: TileStore, small_store: TileStore
) -> None:
    def run(store: TileStore, out: str, overwrite: bool = False) -> Status:
        options = RecodedOptions(store=store.path, out=tmp_path / out, overwrite=overwrite)
        return export_recoded(options).outcomes[0].status

    assert [run(small_store, "a.zarr"), run(small_store, "a.zarr")] == [Status.DONE, Status.SKIPPED]
    with pytest.raises(RecipeMismatchError, match="--overwrite"):
        run(jpeg_store, "a.zarr")
    assert run(jpeg_store, "a.zarr", overwrite=True) is Status.DONE
    shutil.copytree(small_store.path, tmp_path / "c.zarr")  # a store of `tile` is no export
    with pytest.raises(RequestError, match="not made by gigamil as an output of this kind"):
        run(jpeg_store, "c.zarr", overwrite=True)
    assert verify(VerifyOptions(stores=(tmp_path / "c.zarr",), threads=1)).exit_code == 0


def test_a_damaged_tile_is_told_and_no_store_is_left(tmp_path: Path, jpeg_store: TileStore) -> None:
    broken = Path(shutil.copytree(jpeg_store.path, tmp_path / "b.zarr"))
    shard = shard_path(broken, 0, 0, 0)
    shard.write_bytes(b"\0" * 5000 + shard.read_bytes()[5000:])
    with pytest.raises(StoreError, match=r"tile \(\d+, \d+\) is damaged"):
        export_recoded(RecodedOptions(store=broken, out=tmp_path / "out" / "b.zarr"))
    assert not list((tmp_path / "out").iterdir())
    (broken / "labels" / "-x").mkdir()
    (broken / "labels" / "-x" / "a").write_text("")
    with pytest.raises(StoreError, match="which no tile store does"):
        export_recoded(RecodedOptions(store=broken, out=tmp_path / "out" / "b.zarr"))


def _exporters(store: TileStore, folder: Path, **more: object) -> list[Callable[[], Status]]:
    tiff = OmeTiffOptions(store=store.path, out=folder / "a.ome.tiff", **more)  # type: ignore[arg-type]
    dense = OmeZarrOptions(store=store.path, out=folder / "a.zarr", **more)  # type: ignore[arg-type]
    return [
        lambda: export_ome_tiff(tiff).outcomes[0].status,
        lambda: export_ome_zarr(dense).outcomes[0].status,
    ]


def test_a_second_run_skips_another_store_is_refused(
    tmp_path: Path, small_store: TileStore, second_store: TileStore
) -> None:
    for run, again, other, forced in zip(
        _exporters(small_store, tmp_path),
        _exporters(small_store, tmp_path),
        _exporters(second_store, tmp_path),
        _exporters(second_store, tmp_path, overwrite=True),
        strict=True,
    ):
        assert [run(), again()] == [Status.DONE, Status.SKIPPED]
        with pytest.raises(RecipeMismatchError, match="--overwrite"):
            other()
        assert forced() is Status.DONE
    assert {p.name for p in tmp_path.iterdir()} == {"a.ome.tiff", "a.zarr"}


def test_what_is_not_ours_is_never_replaced(tmp_path: Path, small_store: TileStore) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="not made by gigamil"):
        export_ome_zarr(OmeZarrOptions(store=small_store.path, out=tmp_path / "a.zarr", overwrite=True))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert (tmp_path / "a.zarr" / "thesis.txt").read_text() == "mine"


def test_a_damaged_store_leaves_no_export(tmp_path: Path, small_store: TileStore) -> None:
    broken = Path(shutil.copytree(small_store.path, tmp_path / "b.zarr"))
    shard = shard_path(broken, 0, 0, 0)
    shard.write_bytes(b"\0" * 5000 + shard.read_bytes()[5000:])
    for run in _exporters(TileStore(broken), tmp_path / "out"):
        with pytest.raises(Exception, match="damaged"):
            run()
    assert not list((tmp_path / "out").iterdir())


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ome\.tiff"):
        OmeTiffOptions(store="a.zarr", out=tmp_path / "a.tif")
    with pytest.raises(RequestError, match=r"\.zarr"):
        OmeZarrOptions(store="a.zarr", out=tmp_path / "a")
    with pytest.raises(RequestError, match="--compression lzw: expected one of auto"):
        OmeTiffOptions(store="a.zarr", out=tmp_path / "a.ome.tiff", compression="lzw")  # type: ignore[arg-type]


def test_work_ahead_is_bounded_and_ordered() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    results = ordered(lambda job: job * 2, jobs(), threads=2)
    assert next(results) == 2
    assert taken <= 6
    assert list(results) == [2 * i for i in range(2, 101)]


def test_exports_hold_no_word_of_the_slide(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    """A name, a date and a serial number in every tag of the slide, and in its ICC profile."""
    secrets = ("Mustermann", "2021:03:04", "SN98-77120", "sRGB built-in")
    told = "|".join(secrets).encode()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + told
    tags = [(65001, 2, None, told, True), (65002, 7, None, told.decode().encode("utf-16-le"), True)]
    slide = write_pyramid(
        tmp_path / "a.tif", picture(700, 900), levels=2, photometric="rgb", description=told, software=told,
        extratags=tags, datetime="2021:03:04 05:06:07", iccprofile=len(profile).to_bytes(4, "big") + profile[4:],
    )  # fmt: skip
    store = tiled(slide, tmp_path / "store", codec="auto", assume_mpp=None)
    assert b"Mustermann" in store.icc_profile
    out = tmp_path / "out"
    export_ome_zarr(OmeZarrOptions(store=store.path, out=out / "b.zarr"))
    export_ome_tiff(OmeTiffOptions(store=store.path, out=out / "b.ome.tiff"))
    assert (out / "b.zarr" / "OME" / "icc.icc").stat().st_size > 300
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for secret in secrets:
        for form in ("utf-8", "utf-16-le", "utf-16-be"):
            assert not [path for path, data in files.items() if secret.encode(form) in data]
    assert not [path for path, data in files.items() if store.recipe["slide"].encode() in data]
    with tifffile.TiffFile(out / "b.ome.tiff") as tiff:
        assert set(tiff.pages.first.tags.keys()) <= {
            254, 256, 257, 258, 259, 262, 270, 277, 282, 283, 284, 296, 305, 322, 323, 324, 325, 330, 339, 347, 530,
            532, 34675,
        }  # fmt: skip
