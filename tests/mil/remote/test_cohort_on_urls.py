"""Bags behind URLs are those of a local run; the slides of a cohort file may lie behind URLs."""

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from making import picture, write_deflate
from remote_server import make_bucket, objects

from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from mil.pipeline.cohort.cohort_file import read_cohort_file
from mil.pipeline.options import RunOptions
from mil.pipeline.run import run
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore
from wsi.urls import path_of


def test_bags_of_a_url_are_those_of_a_local_run(
    small_store: TileStore, second_store: TileStore, bucket: str, port: int, tmp_path: Path
) -> None:
    for store in (small_store, second_store):
        make_bucket(port, bucket, Path(str(store.path)), f"stores/{store.image_id}.zarr/")
    local = tuple(Path(str(store.path)) for store in (small_store, second_store))
    assert extract(ExtractOptions(stores=local, out=tmp_path / "bags", device="cpu")).exit_code == 0
    stores, bags = (path_of(f"s3://{bucket}/stores"),), path_of(f"s3://{bucket}/bags")
    options = ExtractOptions(stores=stores, out=bags, device="cpu")
    assert {own.status for own in extract(options).outcomes} == {Status.DONE}
    for bag in (tmp_path / "bags").glob("*.h5"):
        assert objects(port, bucket)[f"bags/{bag.name}"] == bag.read_bytes()
        with h5py.File(bag) as file:
            assert len(file["features"]) > 0
    assert {own.status for own in extract(options).outcomes} == {Status.SKIPPED}
    with pytest.raises(RequestError, match=rf"s3://{bucket}/bags/.*h5 was made with other settings \(stain"):
        extract(ExtractOptions(stores=options.stores, out=options.out, device="cpu", stain="background"))


def test_a_cohort_file_takes_slides_of_urls(
    bucket: str, port: int, tmp_path: Path, tiled: Callable[..., TileStore]
) -> None:
    (tmp_path / "slides").mkdir()
    slide = write_deflate(tmp_path / "slides" / "a_0.tif", picture(600, 700, 1))
    make_bucket(port, bucket, tmp_path / "slides", "slides/")
    (tmp_path / "train.csv").write_text("image_id,patient_id,label\na_0,a,CE\n")
    file = tmp_path / "cohort.toml"
    text = f'slides = ["s3://{bucket}/slides"]\nmanifest = "train.csv"\n[tile]\nassume_mpp = 0.5\nworkers = 0\n'
    file.write_text(text)
    assert [own.status for own in run(RunOptions(cohort=file, stage="tile")).outcomes] == [Status.DONE]
    store = TileStore(tmp_path / "cohort" / "stores" / "a_0.zarr")
    assert store.recipe_hash == tiled(slide, tmp_path / "expected").recipe_hash
    assert [own.status for own in run(RunOptions(cohort=file, stage="tile")).outcomes] == [Status.SKIPPED]
    file.write_text(f'folder = "s3://{bucket}/work"\n{text}')
    with pytest.raises(RequestError, match=r"folder s3://.*/work: expected one of this machine"):
        read_cohort_file(file)
