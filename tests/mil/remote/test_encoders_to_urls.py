"""The training of an encoder whose output is behind a URL: all that it leaves arrives, and stopping loses nothing."""

import shutil
from pathlib import Path

import pytest
from remote_server import client_of, objects

from features.finetune.options import FinetuneOptions
from features.finetune.run import finetune
from features.learning.scalars import EVENTS
from features.pretrain import loop
from features.pretrain.options import PretrainOptions
from features.pretrain.run import pretrain
from wsi.machine.interrupt import Leaving
from wsi.progress.outcome import Status, Summary
from wsi.store.tile_store import TileStore
from wsi.urls import path_of


def pretrained(out: Path, **more: object) -> Summary:
    settings = {
        "source": ("formula",), "formula": "fractaldb", "classes": 2, "instances": 6, "network": "test_resnet",
        "size": 32, "epochs": 2, "batch_size": 6, "device": "cpu", "out": out,
    }  # fmt: skip
    return pretrain(PretrainOptions(**(settings | more)))  # type: ignore[arg-type]


def there(port: int, bucket: str) -> dict[str, bytes]:
    return {key: data for key, data in objects(port, bucket).items() if ".gigamil" not in key.split("/")}


def content(folder: Path) -> dict[str, bytes]:
    return {own.relative_to(folder).as_posix(): own.read_bytes() for own in folder.rglob("*") if own.is_file()}


def test_all_that_a_pretraining_leaves_is_there_also_when_it_was_stopped_between(
    bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second epoch, it goes on from what another machine saved; what is somebody's stays."""
    client_of(port).put_object(Bucket=bucket, Key="w.other.txt", Body=b"somebody's")
    pretrained(tmp_path / "local" / "w.safetensors")
    out, asked = path_of(f"s3://{bucket}/w.safetensors"), iter([False, False, True])
    with monkeypatch.context() as patched:
        patched.setattr(loop, "asked_to_leave", lambda: next(asked))
        with pytest.raises(Leaving):
            pretrained(out)
    assert {"w.checkpoint", f"w.tensorboard/{EVENTS}"} <= there(port, bucket).keys()
    monkeypatch.setenv("GIGAMIL_SCRATCH", str(tmp_path / "of another machine"))
    steps = iter([False] * 2)  # of the four, two are left: a third question ends the test
    monkeypatch.setattr(loop, "asked_to_leave", lambda: next(steps))
    assert [own.status for own in pretrained(out).outcomes] == [Status.DONE]
    assert there(port, bucket) == {**content(tmp_path / "local"), "w.other.txt": b"somebody's"}
    assert [own.status for own in pretrained(out).outcomes] == [Status.SKIPPED]
    assert not [own for own in (tmp_path / "of another machine").rglob("*") if own.is_file()]


@pytest.mark.slow
def test_all_that_a_fine_tuning_leaves_is_there(
    small_store: TileStore, second_store: TileStore, bucket: str, port: int, tmp_path: Path
) -> None:
    lines = ["image_id,patient_id,label"]
    for number in range(6):
        shutil.copytree((small_store, second_store)[number % 2].path, tmp_path / "stores" / f"p{number}_0.zarr")
        lines.append(f"p{number}_0,p{number},{'AB'[number % 2]}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")

    def tuned(out: Path) -> Summary:
        options = FinetuneOptions(
            stores=(tmp_path / "stores",), manifest=tmp_path / "train.csv", encoder="timm:test_resnet", out=out,
            random_weights=1, folds=3, epochs=1, batch_size=8, tiles_per_slide=2, device="cpu",
        )  # fmt: skip
        return finetune(options)

    assert tuned(tmp_path / "local" / "w.safetensors").exit_code == 0
    assert tuned(path_of(f"s3://{bucket}/w.safetensors")).exit_code == 0
    assert {"w.head.safetensors", "w.splits.csv", "w.history.csv"} < content(tmp_path / "local").keys()
    assert there(port, bucket) == content(tmp_path / "local")
