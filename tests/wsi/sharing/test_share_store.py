"""A store as it is shared: the same pixels, and nothing that its slide, its folder or its metadata said."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import google_crc32c
import numpy as np
import pytest
import tifffile
from making import picture, write_pyramid
from PIL import Image, ImageCms

from wsi.errors import SlideError
from wsi.pixels import neutral_icc
from wsi.pixels.neutral_icc import neutral_profile
from wsi.progress.outcome import Silent
from wsi.sharing.chunks import plain_jpeg
from wsi.sharing.metadata import bundled_recipe, shared_meta
from wsi.sharing.store import share_store
from wsi.store.layout import FILL, meta_hash, shard_path
from wsi.store.options import VerifyOptions
from wsi.store.shards import ABSENT, shard_index, write_shard
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify

SECRET = "Erika Mustermann"
NEW = "p0123456789ab_0"
Tiled = Callable[..., TileStore]


def shared(store: TileStore, folder: Path, *, icc: bool = True, secret: bytes = b"1") -> TileStore:
    share_store(store, folder / f"{NEW}.zarr", NEW, secret, icc=icc, progress=Silent())
    result = TileStore(folder / f"{NEW}.zarr")
    assert verify(VerifyOptions(stores=(folder,))).exit_code == 0
    return result


def everything(folder: Path) -> bytes:
    """All names and bytes below a folder."""
    return b"".join(
        str(p.relative_to(folder)).encode() + (p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")
    )


def words_of(text: str) -> list[bytes]:
    return [text.encode(), text.encode("utf-16-le"), text.encode("utf-16-be")]


def profile_with(text: str, version: float = 4.4) -> bytes:
    """sRGB as Little CMS makes it, with a description, maker and date of a scanner's."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[24:36] = struct.pack(">6H", 2021, 3, 4, 5, 6, 7)
    made[48:56] = b"ACMESN42"
    if version < 4:
        made[8:12] = b"\x02\x40\0\0"
    (count,) = struct.unpack_from(">I", made, 128)
    words = b"text\0\0\0\0" + text.encode() + b"\0"
    for i in range(count):
        place = 132 + 12 * i
        if made[place : place + 4] == b"cprt":
            struct.pack_into(">II", made, place + 4, len(made), len(words))
    made += words
    made[:4] = struct.pack(">I", len(made))
    return bytes(made)


def srgb_of(profile: bytes, pixels: np.ndarray) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    change = ImageCms.buildTransform(source, ImageCms.createProfile("LAB"), "RGB", "LAB")
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), change))


@pytest.fixture(scope="module")
def copied_store(tmp_path_factory: pytest.TempPathFactory, tiled: Tiled) -> TileStore:
    """JPEG tiles of three levels copied from a slide on whose glass something is written beside the tissue."""
    folder = tmp_path_factory.mktemp("copied")
    pixels = picture(2100, 2300)
    cv2.putText(pixels, "MUSTERMANN", (1500, 200), cv2.FONT_HERSHEY_SIMPLEX, 2, (20, 40, 150), 4)
    slide = write_pyramid(folder / "049194_0.tif", pixels, levels=3, photometric="rgb", iccprofile=profile_with(SECRET))
    store = tiled(slide, folder, codec="auto", assume_mpp=None)
    assert set(store.recipe["effect"]["copied"]) == {"0", "1", "2"}
    return store


def test_the_pixels_of_every_listed_tile_stay(copied_store: TileStore, small_store: TileStore, tmp_path: Path) -> None:
    for number, store in enumerate((copied_store, small_store)):
        result = shared(store, tmp_path / str(number))
        tiles = range(store.n_tiles)
        np.testing.assert_array_equal(result.read_tiles(tiles), store.read_tiles(tiles))
        np.testing.assert_array_equal(result.tiles_yx, store.tiles_yx)
        assert list(result.scores) == list(store.scores)
        for name, values in store.scores.items():
            np.testing.assert_array_equal(result.scores[name], values)
        np.testing.assert_array_equal(result.tissue_mask()[0], store.tissue_mask()[0])
        assert (result.mpp, result.slide_shape_yx, result.codec_names) == (
            store.mpp,
            store.slide_shape_yx,
            store.codec_names,
        )


def test_shards_that_hold_pixels_alone_are_copied_byte_by_byte(copied_store: TileStore, tmp_path: Path) -> None:
    result = shared(copied_store, tmp_path)
    assert isinstance(result.path, Path)
    assert isinstance(copied_store.path, Path)
    assert shard_path(result.path, 0, 0, 0).read_bytes() == shard_path(copied_store.path, 0, 0, 0).read_bytes()


def test_what_is_written_beside_the_tissue_stays_behind(copied_store: TileStore, tmp_path: Path) -> None:
    result = shared(copied_store, tmp_path)
    ink = (np.s_[:, 38:52, 374:478], np.s_[:, 9:14, 93:120])  # where it stands on level 2 and on the overview
    assert copied_store.read_level(2)[ink[0]].min() < 60
    assert copied_store.read_array("overview/0")[ink[1]].min() < 180
    assert result.read_level(2)[ink[0]].min() > 200
    assert result.read_array("overview/0")[ink[1]].min() > 200
    tissue = np.s_[:, 150:200, 150:200]
    np.testing.assert_array_equal(
        result.read_array("overview/0")[:, 60:80, 60:90], copied_store.read_array("overview/0")[:, 60:80, 60:90]
    )
    difference = result.read_level(2)[tissue].astype(int) - copied_store.read_level(2)[tissue]
    assert np.abs(difference).mean() < 4  # where a tile was encoded anew: JPEG's loss


def test_no_hash_of_a_picture_leads_back(small_store: TileStore, tmp_path: Path) -> None:
    """The glass of this slide is its background already: without a mark the overview would be the original's."""
    before = small_store.overview_sha256()
    one, same, other = (shared(small_store, tmp_path / name, secret=name[:1].encode()) for name in ("a1", "a2", "b"))
    assert len({before, one.overview_sha256(), other.overview_sha256()}) == 3
    assert one.overview_sha256() == same.overview_sha256()
    difference = one.read_array("overview/0").astype(int) - small_store.read_array("overview/0")
    assert 0 < np.abs(difference).sum() <= 16


def test_metadata_is_an_allow_list(small_store: TileStore, tmp_path: Path) -> None:
    """Whatever else stands in the store's documents and its folder, at any depth, does not go."""
    import shutil

    source = tmp_path / "049194_0.zarr"
    assert isinstance(small_store.path, Path)
    shutil.copytree(small_store.path, source)
    for path in source.rglob("zarr.json"):
        document = json.loads(path.read_text())
        document["attributes"]["operator"] = SECRET
        document["comment"] = {"must_understand": False, "text": SECRET}
        if path.parent == source:
            own = document["attributes"]["gigamil"]
            own |= {"operator": SECRET, "warnings": [SECRET]}
            own["recipe"] |= {"note": SECRET, "roi": SECRET, "roi_class": [SECRET], "reader": SECRET, "drop": [SECRET]}
            own["recipe"]["effect"] |= {"note": SECRET, "copied": {SECRET: 1}}
            own["provenance"] |= {"note": SECRET, "reader_because": SECRET, "warnings": [SECRET], "format": SECRET}
            own["provenance"]["versions"] |= {SECRET: "1.0"}
            own["provenance"]["tissue"] |= {"note": SECRET, "notes": [SECRET], "left_out": [SECRET]}
            own["provenance"]["tissue"]["artefact_shares"][SECRET] = 0.5
        path.write_text(json.dumps(document))
    (source / "notes.txt").write_text(SECRET)
    (source / "tiles" / SECRET).mkdir()
    result = shared(TileStore(source), tmp_path / "shared")
    found = everything(tmp_path / "shared")
    assert SECRET.encode() not in found
    assert b"049194" not in found
    assert small_store.recipe["slide"].encode() not in found
    assert small_store.recipe_hash.encode() not in found
    assert result.recipe["roi"] == "drawn"


def test_shared_metadata_keeps_what_later_stages_use(small_store: TileStore) -> None:
    meta = shared_meta(small_store.meta, NEW, "")
    assert meta["sha256"] == meta_hash(meta)
    assert {k: meta[k] for k in ("mpp", "tile_px", "n_tiles", "scores")} == {
        k: small_store.meta[k] for k in ("mpp", "tile_px", "n_tiles", "scores")
    }
    kept, before = bundled_recipe(small_store.recipe), small_store.recipe
    assert kept == {name: value for name, value in before.items() if name != "slide"}
    assert bundled_recipe(kept) == kept
    assert meta["provenance"]["tissue"]["background"] == small_store.provenance["tissue"]["background"]


def _commented(file: bytes) -> bytes:
    """A JPEG with a comment, application data, a JFIF thumbnail's place taken by words, and words behind its end."""
    words = SECRET.encode()
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(words)) + words
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(words)) + b"Exif\0\0" + words
    jfif = b"\xff\xe0" + struct.pack(">H", 16 + len(words)) + b"JFIF\0\1\1\0\0\1\0\1\1\1" + words
    return file[:2] + jfif + exif + comment + file[2:] + words


def test_comments_in_jpeg_chunks_stay_behind(copied_store: TileStore, tmp_path: Path) -> None:
    import shutil

    assert isinstance(copied_store.path, Path)
    source = tmp_path / "049194_0.zarr"
    shutil.copytree(copied_store.path, source)
    shard = shard_path(source, 0, 0, 0)
    data = shard.read_bytes()
    index = shard_index(data, 256, "x")
    chunks = {}
    for place in np.flatnonzero(index[:, 0] != ABSENT).tolist():
        offset, size = index[place].tolist()
        file = _commented(data[offset : offset + size - 4])
        chunks[place] = file + struct.pack("<I", google_crc32c.value(file))
    write_shard(shard, chunks, 256)
    assert shard.read_bytes().count(SECRET.encode()) == 4 * len(chunks)
    result = shared(TileStore(source), tmp_path / "shared")
    assert SECRET.encode() not in everything(tmp_path / "shared")
    tiles = range(copied_store.n_tiles)
    np.testing.assert_array_equal(result.read_tiles(tiles), copied_store.read_tiles(tiles))


def test_bytes_of_a_shard_that_belong_to_no_chunk_stay_behind(small_store: TileStore, tmp_path: Path) -> None:
    import shutil

    assert isinstance(small_store.path, Path)
    source = tmp_path / "049194_0.zarr"
    shutil.copytree(small_store.path, source)
    shard = shard_path(source, 0, 0, 0)
    data = shard.read_bytes()
    tail = 256 * 16 + 4
    shard.write_bytes(data[:-tail] + SECRET.encode() + data[-tail:])
    shared(TileStore(source), tmp_path / "shared")
    assert SECRET.encode() not in everything(tmp_path / "shared")


def test_plain_jpeg_leaves_a_plain_one_alone() -> None:
    ok, data = cv2.imencode(".jpg", picture(64, 64))
    assert ok
    file = bytes(data)
    assert plain_jpeg(file) == file
    assert plain_jpeg(_commented(file)) == file
    with pytest.raises(ValueError, match="JPEG"):
        plain_jpeg(file[:40])


@pytest.mark.parametrize("version", [2.4, 4.4])
def test_a_profile_loses_its_words_and_keeps_its_colours(version: float) -> None:
    before = profile_with(SECRET, version)
    after = neutral_profile(before)
    for secret in (SECRET, "ACMESN42", "sRGB built-in", "lcms"):
        assert not any(form in after for form in words_of(secret))
    assert after[24:36] == bytes(12)
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(after))).strip() == ""
    pixels = np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(srgb_of(after, pixels), srgb_of(before, pixels))
    assert neutral_profile(after) == after


def test_a_profile_whose_colours_would_change_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Had a colour stood where we do not look, Little CMS would tell."""
    colours = neutral_icc._colours
    with pytest.raises(SlideError):
        neutral_profile(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())  # no profile of RGB
    with pytest.raises(SlideError, match="parsed"):
        neutral_profile(profile_with(SECRET)[:150])
    without = tuple(name for name in neutral_icc._TAGS if name != b"rXYZ")
    monkeypatch.setattr(neutral_icc, "_TAGS", without)
    with pytest.raises(SlideError, match="applied"):
        neutral_profile(profile_with(SECRET))
    monkeypatch.undo()
    monkeypatch.setattr(neutral_icc, "_colours", lambda profile: colours(profile.replace(b"\0\2ff", b"\0\1ff")))
    with pytest.raises(SlideError, match="without its texts"):
        neutral_profile(profile_with(SECRET))  # another tone curve


def test_the_profile_goes_with_the_store_unless_it_is_not_wanted(copied_store: TileStore, tmp_path: Path) -> None:
    assert SECRET.encode() in copied_store.icc_profile
    result = shared(copied_store, tmp_path / "a")
    pixels = picture(40, 50)
    np.testing.assert_array_equal(srgb_of(result.icc_profile, pixels), srgb_of(copied_store.icc_profile, pixels))
    assert SECRET.encode() not in everything(tmp_path / "a")
    assert shared(copied_store, tmp_path / "b", icc=False).icc_profile == b""


def test_absent_chunks_stay_absent(small_store: TileStore, tmp_path: Path) -> None:
    result = shared(small_store, tmp_path)
    places = np.argwhere(np.ones(small_store.grid.tiles, bool))
    out = [np.full((len(places), 3, 256, 256), FILL, np.uint8) for _ in range(2)]
    stored = [store.read_chunks(0, places, own) for store, own in zip((small_store, result), out, strict=True)]
    np.testing.assert_array_equal(stored[0], stored[1])
    np.testing.assert_array_equal(out[0], out[1])


def test_a_slide_of_the_world_keeps_nothing_but_its_pixels(real_slides: Path, tiled: Tiled, tmp_path: Path) -> None:
    """CMU-1-Small-Region has a label and a macro image, a scanner's id, a date, a user."""
    slide = real_slides / "CMU-1-Small-Region.svs"
    with tifffile.TiffFile(slide) as tiff:
        told = "|".join(str(page.description) for page in tiff.pages)
    assert "ScanScope ID = CPAPERIOCS" in told
    assert "macro" in told
    shared(tiled(slide, tmp_path / "store"), tmp_path / "shared")
    found = everything(tmp_path / "shared")
    for secret in (
        "CMU-1",
        "CPAPERIOCS",
        "12/29/09",
        "09:59:15",
        "b414003d-95c6-48b0-9369-8010ed517ba7",
        "1004486",
        "Aperio",
        "aperio",
    ):
        assert not any(form in found for form in words_of(secret)), secret
