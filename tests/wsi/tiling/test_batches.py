"""A batch goes on past what is wrong with one slide, and says in one line what is wrong with the whole request."""

import errno
import fcntl
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from making import picture, write_deflate, write_ome_zarr

from cli.app import app
from wsi.cohort.slides import find_jobs
from wsi.errors import NoLocksError, RequestError
from wsi.files.atomic import write_text
from wsi.files.claim import claim
from wsi.options import NAMES, NO_LOCK
from wsi.progress.outcome import Status
from wsi.tiling.engine import reason
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


def statuses(*slides: Path, out: Path, **options: object) -> dict[str, tuple[Status, str]]:
    settings = {"assume_mpp": 0.5, "workers": 0} | options
    summary = tile(TileOptions(slides=slides, out=out, **settings))  # type: ignore[arg-type]
    return {o.item_id: (o.status, o.reason) for o in summary.outcomes}


def test_a_broken_link_inside_a_slide_is_that_slides_fault(tmp_path: Path, deflate_slide: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(deflate_slide, slides / "a.tif")
    write_ome_zarr(slides / "b.zarr")
    (slides / "b.zarr" / "note").symlink_to(tmp_path / "nowhere")
    found = statuses(slides, out=tmp_path / "out")
    assert {name: status for name, (status, _) in found.items()} == {"a": Status.DONE, "b": Status.DONE}


def test_an_unopenable_lock_file_is_that_slides_fault(tmp_path: Path, deflate_slide: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for name in ("a", "b"):
        shutil.copy(deflate_slide, slides / f"{name}.tif")
    (out / ".a.zarr.lock").mkdir(parents=True)
    found = statuses(slides, out=out)
    assert {name: status for name, (status, _) in found.items()} == {"a": Status.FAILED, "b": Status.DONE}
    assert ".a.zarr.lock" in found["a"][1]


def test_a_name_that_is_too_long_is_that_slides_fault(tmp_path: Path, deflate_slide: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(deflate_slide, slides / "b.tif")
    shutil.copy(deflate_slide, slides / ("x" * 240 + ".tif"))
    found = statuses(slides, out=tmp_path / "out")
    assert found.pop("b")[0] is Status.DONE
    ((status, told),) = found.values()
    assert status is Status.FAILED
    assert "1 to 200 bytes" in told
    assert "--manifest" in told


@contextmanager
def without_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        yield


def test_a_disk_without_locks_is_one_line_with_the_way_out(
    tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with without_locks(monkeypatch):
        with pytest.raises(NoLocksError, match=r"no file locks.*--no-lock"):
            statuses(deflate_slide, out=tmp_path)
        with monkeypatch.context() as patch:
            patch.setenv(NO_LOCK, "1")
            assert statuses(deflate_slide, out=tmp_path)["049194_0"][0] is Status.DONE
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".lock") == ["049194_0.zarr"]


def test_every_verb_that_writes_knows_no_lock(
    tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NO_LOCK, "")
    for verb in ("tile", "qc", "export", "extract", "finetune", "train", "tune", "predict", "heatmap", "similar"):
        assert "--no-lock" in CliRunner().invoke(app, [verb, "--help"]).output, verb
    with without_locks(monkeypatch):
        assert statuses(deflate_slide, out=tmp_path, no_lock=True)["049194_0"][0] is Status.DONE
    assert os.environ[NO_LOCK] == "", "told to this run alone"


def test_a_claim_of_the_longest_name(tmp_path: Path) -> None:
    with claim(tmp_path / ("x" * 255)):
        (lock,) = tmp_path.iterdir()
        assert len(lock.name) <= 255
    assert not list(tmp_path.iterdir())


def test_a_relative_out_is_the_callers_also_with_a_scheduler(
    tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with LocalCluster(
        n_workers=1, processes=True, threads_per_worker=1, dashboard_address="127.0.0.1:0", preload=None
    ) as cluster:
        with cluster.get_client() as client:
            client.run(os.chdir, tmp_path / "there")
        found = statuses(deflate_slide, out=Path("stores"), scheduler=cluster.scheduler_address)
    assert found["049194_0"][0] is Status.DONE
    assert (tmp_path / "here" / "stores" / "049194_0.zarr" / "zarr.json").is_file()
    assert not list((tmp_path / "there").iterdir())


def test_a_worker_that_does_not_see_the_folder_says_so(
    tmp_path: Path, deflate_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalCluster(n_workers=1, processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        monkeypatch.setattr("os.path.exists", lambda path: "probe" not in str(path) and bool(path))
        with pytest.raises(RequestError, match="do not see this folder"):
            statuses(deflate_slide, out=tmp_path, scheduler=cluster.scheduler_address)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "table.csv", "x")
    assert caught.value.filename == str(tmp_path / "table.csv")
    assert str(tmp_path / "table.csv") in reason(caught.value)


def test_tiling_leaves_the_callers_settings_as_they_were(tmp_path: Path, deflate_slide: Path) -> None:
    import logging
    import warnings

    loggers = {name: logging.getLogger(name).level for name in ("distributed", "distributed.worker")}
    threads, filters = cv2.getNumThreads(), list(warnings.filters)
    cv2.setNumThreads(3)
    try:
        statuses(deflate_slide, out=tmp_path)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(threads)
    assert {name: logging.getLogger(name).level for name in loggers} == loggers
    assert list(warnings.filters) == filters


def test_pipes_and_sockets_are_no_slides(tmp_path: Path, deflate_slide: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(deflate_slide, slides / "a.tif")
    os.mkfifo(slides / "pipe.svs")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(slides)
        try:
            listening.bind("s.tif")
        finally:
            os.chdir(here)
        found = statuses(slides, slides / "pipe.svs", out=tmp_path / "out")
    assert found.pop("a")[0] is Status.DONE
    assert {status for status, _ in found.values()} == {Status.FAILED}
    assert "it is a named pipe, expected a regular file" in found["pipe"][1]
    assert "it is a socket, expected a regular file" in found["s"][1]
    assert threading.active_count() < 50


def test_linked_folders_are_followed_once_and_dead_links_are_named(tmp_path: Path, deflate_slide: Path) -> None:
    slides, elsewhere = tmp_path / "slides", tmp_path / "elsewhere"
    for folder in (slides, elsewhere):
        folder.mkdir()
    shutil.copy(deflate_slide, elsewhere / "a.tif")
    (elsewhere / "back").symlink_to(slides)
    (slides / "first").symlink_to(elsewhere)
    (slides / "second").symlink_to(elsewhere)
    (slides / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    (slides / "disk").symlink_to(tmp_path / "unmounted")
    (slides / "notes.txt").symlink_to(tmp_path / "nowhere.txt")
    (slides / "b.dicom").write_bytes(b"x")
    jobs = {job.image_id: job for job in find_jobs([slides], None)}
    assert set(jobs) == {"a", "gone", "disk", "b"}
    assert jobs["gone"].problem == f"a link to {tmp_path / 'nowhere.svs'}, which is not there"
    assert jobs["disk"].problem == f"a link to {tmp_path / 'unmounted'}, which is not there"
    assert not jobs["a"].problem


def test_ids_find_slides_whatever_their_ending_and_capitals(tmp_path: Path) -> None:
    for name in ("S1.tif", "s2.SVS", "Case 3.ome.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "m.csv").write_text("slide_id;age\nS1.tif;61\nS2;\ncase 3;70\nS4;1\n")
    jobs = find_jobs([tmp_path], tmp_path / "m.csv")
    assert [(job.image_id, job.path.name) for job in jobs[:3]] == [
        ("S1", "S1.tif"),
        ("S2", "s2.SVS"),
        ("case 3", "Case 3.ome.tiff"),
    ]
    assert [bool(job.problem) for job in jobs] == [False, False, False, True]


def test_columns_is_an_option_of_every_verb_with_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAMES, "")
    for verb in ("info", "tile", "finetune", "train", "tune", "predict"):
        assert "--columns" in CliRunner().invoke(app, [verb, "--help"]).output, verb
    shutil.copy(write_deflate(tmp_path / "x.tif", picture(300, 300)), tmp_path / "S1.tif")
    (tmp_path / "m.csv").write_text("Filename;um\nS1.tif;0,5\n")
    arguments = [
        "info",
        str(tmp_path),
        "-m",
        str(tmp_path / "m.csv"),
        "--columns",
        "image_id=Filename,mpp=um",
        "--json",
    ]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    (row,) = json.loads(run.output)
    assert (row["image_id"], row["mpp"], row["mpp_source"]) == ("S1", "0.5", "manifest")
    run = CliRunner().invoke(app, ["info", str(tmp_path), "--columns", "slide=x"])
    assert run.exit_code == 2
    assert "expected OURS=THEIRS" in run.output
