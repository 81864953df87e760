"""Slides behind DICOMweb: fetched bit by bit, and tiled into the stores that a local run makes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import picture
from making_dicom import JPEG, write_dicom
from serving_dicomweb import Dicomweb, serving

from wsi.cohort.remote_slides import RemoteSlides
from wsi.cohort.slides import find_jobs
from wsi.errors import RemoteError, RequestError
from wsi.readers.dicom.web import DicomWeb, is_dicomweb
from wsi.remote.scratch import scratch_of
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.urls import path_of

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
STUDY, SERIES, OTHER = "1.2.3", "1.2.3.4", "1.2.3.5"


def write_slide(folder: Path, series: str, seed: int) -> None:
    folder.mkdir(parents=True)
    pixels = picture(600, 700, seed)
    facts: dict[str, Any] = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": series}
    write_dicom(folder / "0.dcm", pixels, JPEG, **facts)
    write_dicom(folder / "1.dcm", np.ascontiguousarray(pixels[::2, ::2]), JPEG, **facts)
    write_dicom(folder / "label.dcm", picture(100, 100), JPEG, "LABEL", **facts)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dicomweb]:
    monkeypatch.setenv("GIGAMIL_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("GIGAMIL_DICOMWEB_TOKEN", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    write_slide(tmp_path / "study" / SERIES, SERIES, 1)
    write_slide(tmp_path / "study" / OTHER, OTHER, 2)
    with serving(tmp_path / "study") as served:
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    return {own.relative_to(folder).as_posix(): own.read_bytes() for own in folder.rglob("*") if own.is_file()}


@pytest.mark.parametrize("spoil", ["", "503", "cut"])
def test_a_series_becomes_the_store_that_its_folder_becomes(server: Dicomweb, tmp_path: Path, spoil: str) -> None:
    server.spoil = spoil
    url = f"{server.url}/studies/{STUDY}/series/{SERIES}"
    local = TileOptions(slides=(tmp_path / "study" / SERIES,), out=tmp_path / "local", workers=0, tile_px=64)
    assert tile(local).exit_code == 0
    told = tile(TileOptions(slides=(path_of(url),), out=tmp_path / "stores", workers=0, tile_px=64))
    assert told.exit_code == 0
    assert (tmp_path / "stores" / f"{SERIES}.zarr").is_dir()
    stores = {name: data for name, data in contents(tmp_path / "stores").items() if not name.startswith(".gigamil")}
    assert stores == contents(tmp_path / "local")
    label = next(str(ds.SOPInstanceUID) for ds, path in server.files if path.parts[-2:] == (SERIES, "label.dcm"))
    assert not server.asked[f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{label}"]  # never leaves its server


def test_a_study_holds_a_slide_for_each_series_and_files_come_bit_by_bit(server: Dicomweb, tmp_path: Path) -> None:
    with scratch_of("test") as scratch:
        slides = RemoteSlides(scratch)
        folders = slides.local([path_of(f"{server.url}/studies/{STUDY}")])
        jobs = find_jobs(folders, None)
        assert [job.image_id for job in jobs] == [SERIES, OTHER]
        for job in jobs:
            identity = slides.identity(job.path)
            slides.fetch(job.path)
            assert slides.identity(job.path) == identity
            assert job.path.read_bytes() == (tmp_path / "study" / job.image_id / "0.dcm").read_bytes()
            slides.drop(job.path)
            assert not job.path.exists()


def test_who_may_not_ask_is_told_so_and_a_token_opens(server: Dicomweb, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret"
    served = DicomWeb(f"{server.url}/studies/{STUDY}")
    with pytest.raises(RequestError, match=r"access denied \(HTTP 401\): set GIGAMIL_DICOMWEB_TOKEN"):
        served.instances()
    monkeypatch.setenv("GIGAMIL_DICOMWEB_TOKEN", "secret")
    assert len(served.instances()) == 6


def test_what_is_not_there_and_who_does_not_answer(server: Dicomweb, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="not found"):
        DicomWeb(f"{server.url}/studies/9.9").instances()
    monkeypatch.setenv("GIGAMIL_REMOTE_PATIENCE", "0.3")
    server.shutdown()
    server.server_close()
    with pytest.raises(RemoteError, match="the network failed again and again"):
        DicomWeb(f"{server.url}/studies/{STUDY}").instances()


@pytest.mark.parametrize("told", [b"<html>", b"[" * 100_000, b"\xff\xfe"])
def test_answers_that_are_no_metadata_are_told_in_one_line(server: Dicomweb, told: bytes) -> None:
    server.told = told
    with pytest.raises(RequestError, match="the answer is no DICOMweb"):
        DicomWeb(f"{server.url}/studies/{STUDY}").instances()


@pytest.mark.parametrize("told", [b'{"a": 1}', b"[1, null, []]", b'[{"00080016": 3, "00080018": {"Value": "x"}}]'])
def test_what_no_instance_is_in_holds_none(server: Dicomweb, told: bytes) -> None:
    server.told = told
    assert DicomWeb(f"{server.url}/studies/{STUDY}").instances() == {}


def test_urls_of_dicomweb_are_told_by_their_look() -> None:
    assert is_dicomweb("https://host:8042/dicom-web/studies/1.2/series/3.4")
    assert is_dicomweb("https://host/studies/1.2/?includefield=all")
    assert not is_dicomweb("https://host/studies/1.2/series/3.4/instances/5")
    assert not is_dicomweb("https://host/slides/a.svs")
    assert not is_dicomweb("s3://bucket/studies/1.2")


def test_the_server_speaks_as_another_client_wants_it(server: Dicomweb, tmp_path: Path) -> None:
    api = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed")
    client = api.DICOMwebClient(server.url)
    told = client.retrieve_series_metadata(STUDY, SERIES)
    assert len(told) == 3
    theirs = [client.retrieve_instance(STUDY, SERIES, own["00080018"]["Value"][0]) for own in told]
    served, target = DicomWeb(f"{server.url}/studies/{STUDY}/series/{SERIES}"), tmp_path / "one.dcm"
    found = served.instances()
    for dataset in theirs:
        key = f"{SERIES}/{dataset.SOPInstanceUID}"
        served.fetch(key, target, found[key])
        shutil.copy(target, tmp_path / "copy.dcm")
        assert dataset.PixelData in target.read_bytes()
