"""Bundles: whole or not at all, under new ids alone, still good for work; a run's words without its patients."""

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from making import picture, write_deflate
from making_dicom import write_dicom
from witness import DIM, Trained, facts, grid

from features.bags.bag import feature_rows, read_coords, read_header, write_bag
from features.bags.options import VerifyBagsOptions
from features.bags.verify import verify_bags
from features.encoders.lineage import patient_sha256
from mil.data.cohort import scan_bags, shared_recipe
from mil.sharing.bags import shared_bag_recipe
from mil.sharing.options import ShareOptions
from mil.sharing.share import share
from wsi.annotations.geojson import parse_annotations, read_annotations
from wsi.cohort.manifest import load_manifest
from wsi.errors import GigamilError, RecipeMismatchError, RequestError
from wsi.progress.outcome import Status
from wsi.readers.tiff.reader import TiffReader
from wsi.sharing.bundle import TIME
from wsi.sharing.ids import read_key
from wsi.sharing.options import PhiOptions
from wsi.sharing.phi.search import verify_phi
from wsi.store.options import VerifyOptions
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify

Tiled = Callable[..., TileStore]
TABLE = 'image_id,patient_id,label,center_id,who,seen\n049194_0,049194,LAA,Ulm,"Mustermann, Erika",2021-03-04\n'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "cohort.csv").write_text(TABLE)
    return tmp_path / "cohort.csv"


def names_nobody(bundle: Path, table: Path) -> None:
    summary = verify_phi(PhiOptions(folders=(bundle,), against=table))
    assert summary.exit_code == 0, summary.outcomes


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_bundle_of_a_store_in_two_forms(small_store: TileStore, table: Path, tmp_path: Path) -> None:
    out, key = tmp_path / "bundle", tmp_path / "key.csv"
    options = ShareOptions(
        items=(Path(small_store.path),), out=out, forms=("stores", "ome-tiff"), manifest=table, key=key, keep=("label",)
    )
    assert share(options).exit_code == 0
    new = read_key(key).slides["049194_0"]
    assert rows_of(out / "cohort.csv") == [{"image_id": new, "patient_id": new[:-2], "label": "LAA"}]
    assert {p.name for p in out.iterdir()} == {
        "stores",
        "ome-tiff",
        "cohort.csv",
        "bundle.json",
        "README.txt",
        "SHA256SUMS",
    }
    store = TileStore(out / "stores" / f"{new}.zarr")
    assert verify(VerifyOptions(stores=(store.path,))).exit_code == 0
    np.testing.assert_array_equal(store.read_tiles([0, 5]), small_store.read_tiles([0, 5]))
    with TiffReader(out / "ome-tiff" / f"{new}.ome.tiff") as slide:
        assert slide.levels[0].shape == small_store.shape_yx
    names_nobody(out, table)


def test_checksums_times_and_modes(small_store: TileStore, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    share(ShareOptions(items=(Path(small_store.path),), out=out))
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=True
    )
    listed = {line.rpartition(":")[0] for line in checked.stdout.splitlines()}
    assert listed == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    for path in [out, *out.rglob("*")]:
        assert path.stat().st_mtime == TIME
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
        assert not os.listxattr(path)
        assert path.stat().st_nlink == 1 or path.is_dir()  # nothing is shared with the originals


def test_two_bundles_of_one_store_have_nothing_in_common_but_pixels(small_store: TileStore, tmp_path: Path) -> None:
    names = []
    for out in (tmp_path / "a", tmp_path / "b"):
        share(ShareOptions(items=(Path(small_store.path),), out=out))
        names.append(next((out / "stores").iterdir()).name)
    assert names[0] != names[1]


def test_bags_go_without_what_leads_back_and_train_as_before(trained: Trained, table: Path, tmp_path: Path) -> None:
    witness, out, key = trained.witness, tmp_path / "bundle", tmp_path / "key.csv"
    share(
        ShareOptions(
            items=(witness.bags,), out=out, forms=("bags",), manifest=witness.manifest, key=key, keep=("label",)
        )
    )
    ids = read_key(key)
    assert verify_bags(VerifyBagsOptions(bags=(out / "bags",))).exit_code == 0
    old, new = (
        scan_bags([folder], names)
        for folder, names in [(witness.bags, list(ids.slides)), (out / "bags", list(ids.slides.values()))]
    )
    for image_id, shared in ids.slides.items():
        np.testing.assert_array_equal(feature_rows(new.headers[shared].path), feature_rows(old.headers[image_id].path))
        np.testing.assert_array_equal(read_coords(new.headers[shared].path), read_coords(old.headers[image_id].path))
    rows = load_manifest(out / "cohort.csv")
    assert {row.image_id: (row.patient_id, row.label) for row in rows} == {
        ids.slides[row.image_id]: (ids.patients[row.patient_id], row.label) for row in load_manifest(witness.manifest)
    }
    names_nobody(out, witness.manifest)


def test_a_run_goes_on_with_shared_bags() -> None:
    """What bags of one cohort must agree on stays as it is: a run trained on the originals takes the shared ones."""
    effect = {
        "level": 0, "l0_px_per_px": 1.0, "tile_px": 256, "codecs": ["zstd"], "copied": {"0": 0}, "jpeg_reduced": 1,
        "scores": "auto", "drop": ["focus<0.04"], "fill_holes": False,
    }  # fmt: skip
    tiling = {
        "target_mpp": 0.5, "tile_px": 256, "codec": "auto", "downscale": "area", "min_tissue": 0.1,
        "keep_background": False, "roi_mode": "and", "roi_class": [], "fill_holes": False,
        "drop": ["focus<0.04", "pen>0.5"], "scores": "auto",
        "algorithm": 4, "reader": "tiff", "slide_mpp": 0.5, "slide": "ab" * 32, "roi": None, "assume_mpp": 0.5,
        "effect": effect,
    }  # fmt: skip
    encoder = {"name": "timm:resnet50.a1_in1k", "input_px": 224, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
               "interpolation": "bicubic", "weights_sha256": "cd" * 32, "resize_px": 256, "crop_pct": 0.9}  # fmt: skip
    recipe = {
        "stage": "extract", "precision": "fp32", "encoder": encoder, "tiling": tiling, "stain": "macenko",
        "bag_dtype": "float32", "views": {"kind": "d4", "kept": True},
        "select": {"by": "random", "tiles": 100, "seed": 3},
    }  # fmt: skip
    assert shared_recipe(shared_bag_recipe(recipe)) == shared_recipe(recipe)
    joint = recipe | {
        "encoder": {"name": "texture+timm:x", "members": [encoder, {"name": "texture", "input_px": None}]}
    }
    assert shared_recipe(shared_bag_recipe(joint)) == shared_recipe(joint)


def test_a_bags_words_are_an_allow_list(tmp_path: Path) -> None:
    """Provenance with a lineage, paths and notes: patients of the bundle are listed anew, nobody else at all."""
    secret = "Erika Mustermann"
    told = facts("049194_0")
    lineage = {
        "recipe_hash": "ab" * 32, "splits_hash": "cd" * 32, "fold": 1, "n_folds": 5, "classes": [secret],
        "patients_sha256": sorted(map(patient_sha256, ["049194", "777777"])),
    }  # fmt: skip
    encoder = {
        "name": "texture",
        "dim": DIM,
        "description": secret,
        "caution": secret,
        "licence": secret,
        "lineage": lineage,
    }
    tiling = {"slide": "ef" * 32, "roi": "01" * 32, "roi_class": [secret], "tile_px": 256, "note": secret}
    recipe = {"encoder": {"name": "texture", "note": secret}, "tiling": tiling, "note": secret, "stain": secret}
    changed = told.__class__(
        image_id=told.image_id, encoder="texture", recipe=recipe, tile_px=told.tile_px, l0_px_per_px=told.l0_px_per_px,
        level0_shape_yx=told.level0_shape_yx, mpp=told.mpp,
        provenance={"encoder": encoder, "note": secret, "device": secret, "overview_sha256": "ab" * 32},
    )  # fmt: skip
    write_bag(tmp_path / "bags" / "049194_0.h5", [np.ones((4, DIM), np.float16)], grid(4), changed)
    out, key = tmp_path / "bundle", tmp_path / "key.csv"
    share(ShareOptions(items=(tmp_path / "bags",), out=out, key=key))
    (bag,) = (out / "bags").iterdir()
    data = bag.read_bytes()
    for leak in (
        secret,
        "049194",
        "ab" * 32,
        "cd" * 32,
        "ef" * 32,
        "01" * 32,
        patient_sha256("049194"),
        patient_sha256("777777"),
    ):
        assert leak.encode() not in data or leak == "ab" * 32 == lineage["recipe_hash"], leak
    kept = read_header(bag).provenance["encoder"]["lineage"]
    assert kept["patients_sha256"] == [patient_sha256(read_key(key).patients["049194"])]
    assert read_header(bag).provenance["overview_sha256"] != "ab" * 32
    with h5py.File(bag) as file:
        assert set(file) == {"features", "coords", "moments"}  # the last are sums of the first


def test_what_a_run_says_under_new_ids(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    out, key, image_id = tmp_path / "bundle", tmp_path / "key.csv", small_store.image_id
    (tmp_path / "bags").mkdir()
    (tmp_path / "bags" / f"{image_id}.h5").write_bytes((trained.witness.bags / f"{image_id}.h5").read_bytes())
    share(
        ShareOptions(
            items=(trained.out,), stores=(Path(small_store.path),), bags=(tmp_path / "bags",), out=out, key=key,
            forms=("heatmaps", "predictions"),
        )
    )  # fmt: skip
    ids = read_key(key)
    before = {(row["level"], row["patient_id"], row["image_id"]): row for row in rows_of(trained.out / "oof.csv")}
    after = rows_of(out / "predictions.csv")
    assert len(after) == len(before)
    back = {new: old for old, new in {**ids.slides, **ids.patients}.items()} | {"": ""}
    for row in after:
        source = before[row["level"], back[row["patient_id"]], back[row["image_id"]]]
        assert all(row[name] == source[name] for name in ("fold", "n_tiles", "p_CE", "p_LAA"))
    assert "label" not in after[0]
    assert "center_id" not in after[0]
    new = ids.slides[image_id]
    assert {p.name for p in (out / "heatmaps").iterdir()} == {f"{new}.png", f"{new}.csv"}
    names_nobody(out, trained.witness.manifest)


def test_annotations_keep_shapes_and_lose_words(small_store: TileStore, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    feature = {
        "type": "Feature", "id": "5f8a3c9e-1b9a-4e5c-9d6b-0a1b2c3d4e5f",
        "geometry": {"type": "Polygon", "coordinates": [[[1, 2], [30, 2], [30, 40], [1, 2]]], "note": "Erika"},
        "properties": {
            "objectType": "annotation", "name": "Mustermann, Erika", "metadata": {"by": "Erika"}, "secret": "Erika",
            "classification": {"name": "Ulm case*", "color": [1, 2, 3]}, "measurements": {"Erika": 1.0},
        },
    }  # fmt: skip
    tumor = json.loads(json.dumps(feature)) | {"id": "6f8a3c9e-1b9a-4e5c-9d6b-0a1b2c3d4e5f"}
    tumor["properties"]["classification"]["name"] = "Tumor"
    (folder / "049194_0.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature, tumor]}))
    for texts in (False, True):
        out = tmp_path / f"bundle{texts}"
        share(ShareOptions(
            items=(Path(small_store.path),), out=out, forms=("annotations",), annotations=folder, manifest=table,
            keep_texts=texts,
        ))  # fmt: skip
        (path,) = (out / "annotations").iterdir()
        found, before = read_annotations(path), read_annotations(folder / "049194_0.geojson")
        assert [own.geometry for own in found] == [own.geometry for own in before]
        assert not {own.id for own in found} & {own.id for own in before}
        words = [(own.name, own.class_name, own.ignored) for own in found]
        if texts:
            assert words[0] == ("Mustermann, Erika", "Ulm case*", True)
        else:
            assert words == [(None, "Class 1*", True), (None, "Tumor", False)]
            assert "Erika" not in path.read_text()
            assert found[0].class_color == (1, 2, 3)
            names_nobody(out, table)
    assert parse_annotations(path.read_bytes())


def test_planted_strings_do_not_reach_a_bundle(tiled: Tiled, tmp_path: Path) -> None:
    """TIFF and DICOM slides with a name, a date, an id and a serial number in every place where they could stand."""
    secrets = {"name": "Mustermann, Erika", "day": "2021-03-04", "case_no": "S21-4711", "serial": "SN98-77120"}
    whole = "|".join(f"{key} = {value}" for key, value in secrets.items())
    tags = [(65001, 2, None, whole.encode(), True), (65002, 7, None, whole.encode("utf-16-le"), True)]
    slides = tmp_path / "slides"
    slides.mkdir()
    write_deflate(
        slides / "Mustermann_S21-4711.tif", picture(), description=whole.encode(), software=whole.encode(),
        extratags=tags, datetime="2021:03:04 05:06:07",
    )  # fmt: skip
    write_dicom(
        slides / "d.dcm", picture(700, 800), PatientName="Mustermann^Erika", PatientBirthDate="20210304",
        AccessionNumber="S21-4711", DeviceSerialNumber="SN98-77120", PatientComments=whole,
    )  # fmt: skip
    table = tmp_path / "cohort.csv"
    table.write_text(
        "image_id,name,day,case_no,serial\n"
        + "".join(f'{i},"{secrets["name"]}",2021-03-04,S21-4711,SN98-77120\n' for i in ("Mustermann_S21-4711", "d"))
    )
    for slide in slides.iterdir():
        tiled(slide, tmp_path / "stores")
    searched = PhiOptions(folders=(slides,), against=table, slides=(slides,))
    assert len(verify_phi(searched).ended(Status.FAILED)) == 2  # they are there to be found
    out = tmp_path / "bundle"
    share(ShareOptions(items=(tmp_path / "stores",), out=out, forms=("stores", "ome-tiff"), manifest=table))
    summary = verify_phi(PhiOptions(folders=(out,), against=table, slides=(slides,)))
    assert summary.exit_code == 0, summary.outcomes
    data = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for secret in [*secrets.values(), "Mustermann", "20210304"]:
        for form in ("utf-8", "utf-16-le", "utf-16-be"):
            assert secret.encode(form) not in data


def test_a_slide_that_fails_is_named_and_left_out(
    small_store: TileStore, second_store: TileStore, tmp_path: Path
) -> None:
    import shutil

    stores = tmp_path / "stores"
    for store in (small_store, second_store):
        shutil.copytree(store.path, stores / Path(store.path).name)
    shard = next((stores / f"{second_store.image_id}.zarr" / "0").rglob("c/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:-1])
    out = tmp_path / "bundle"
    summary = share(ShareOptions(items=(stores,), out=out))
    assert {o.item_id: o.status for o in summary.outcomes} == {
        small_store.image_id: Status.DONE,
        second_store.image_id: Status.FAILED,
    }
    assert len(list((out / "stores").iterdir())) == 1
    assert len(rows_of(out / "cohort.csv")) == 1


def test_nothing_is_written_where_nothing_can_be_shared(small_store: TileStore, table: Path, tmp_path: Path) -> None:
    import shutil

    store, out = tmp_path / "049194_0.zarr", tmp_path / "bundle"
    shutil.copytree(small_store.path, store)
    for wrong in [
        {"keep": ("path",)},
        {"keep": ("seen",)},
        {"keep": ("nothing",)},
        {"forms": ("bags",)},
        {"forms": ("heatmaps",)},
    ]:
        with pytest.raises(RequestError):
            share(ShareOptions(items=(store,), out=out, manifest=table, **wrong))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="lies inside"):
        share(ShareOptions(items=(store,), out=out, key=out / "key.csv"))
    with pytest.raises(RequestError, match="own input"):
        share(ShareOptions(items=(store,), out=store / "bundle"))
    (store / "0" / "c" / "0" / "0" / "0").write_bytes(b"x")
    with pytest.raises(GigamilError, match="not one slide"):
        share(ShareOptions(items=(store,), out=out, key=tmp_path / "key.csv"))
    assert {p.name for p in tmp_path.iterdir()} == {"cohort.csv", "049194_0.zarr"}


def test_a_bundle_is_replaced_on_request_alone_and_a_key_is_used_again(small_store: TileStore, tmp_path: Path) -> None:
    out, key = tmp_path / "bundle", tmp_path / "key.csv"
    options = {"items": (Path(small_store.path),), "out": out, "key": key}
    share(ShareOptions(**options))  # type: ignore[arg-type]
    first = read_key(key)
    with pytest.raises(RecipeMismatchError, match="--overwrite"):
        share(ShareOptions(**options))  # type: ignore[arg-type]
    share(ShareOptions(**options, overwrite=True))  # type: ignore[arg-type]
    assert read_key(key) == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RequestError, match="not made by gigamil"):
        share(ShareOptions(items=(Path(small_store.path),), out=tmp_path / "mine", overwrite=True))
    assert (tmp_path / "mine" / "thesis.txt").exists()
