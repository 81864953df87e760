"""Every stage with every path behind a URL, through a bad network, gives what it gives on this machine's paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import picture, write_deflate
from remote_server import BadProxy, make_bucket, objects

from cli.commands import VERBS
from mil.run.folder import MEASURED
from wsi.progress.outcome import Status, Summary
from wsi.urls import path_of

PATIENTS = 8
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small slides of two classes, and their table."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "slides").mkdir()
    rows = ["image_id,patient_id,label"]
    for number in range(PATIENTS):
        write_deflate(folder / "slides" / f"p{number}_0.tif", picture(600, 700 + 40 * (number % 2), number))
        rows.append(f"p{number}_0,p{number},{'AB'[number % 2]}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder


def run_stages(cohort: str, at: str) -> dict[str, Any]:
    """Run the stages of the demo on what lies at ``cohort``; write everything at ``at``."""

    def place(*parts: str) -> Path:
        return path_of("/".join(parts))

    def call(verb: str, **values: Any) -> Any:
        from wsi.progress.outcome import Silent

        options = VERBS[verb].load("options")
        return VERBS[verb].load("run")(options(**values), Silent())

    stores, bags, run, table = place(at, "stores"), place(at, "bags"), place(at, "run"), place(cohort, "train.csv")
    cpu = {"device": "cpu"}
    return {
        "tile": call("tile", slides=(place(cohort, "slides"),), manifest=table, out=stores, workers=0, assume_mpp=0.5),
        "extract": call("extract", stores=(stores,), out=bags, encoder="texture", **cpu),
        "train": call(
            "train", bags=(bags,), manifest=table, stores=(stores,), out=run, folds=2, epochs=2, baselines=(), **cpu
        ),
        "predict": call("predict", run=(run,), items=(bags,), out=place(at, "predictions.csv"), manifest=table, **cpu),
        "heatmap": call(
            "heatmap", run=run, bags=(bags,), stores=(stores,), out=place(at, "maps"), everything=True, **cpu
        ),
        "qc": call("qc", stores=(stores,), out=place(at, "qc")),
        "report": call("report", run=run),
        "stores": call("verify", items=(str(stores),)),
        "bags": call("verify", items=(str(bags),)),
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_stage(cohort: Path, bucket: str, bad_proxy: BadProxy, port: int, tmp_path: Path) -> None:
    local = run_stages(str(cohort), str(tmp_path / "local"))
    make_bucket(port, bucket, cohort, "cohort/")
    bad_proxy.share = 0.02
    remote = run_stages(f"s3://{bucket}/cohort", f"s3://{bucket}/work")
    for verb, summary in local.items():
        assert summary.exit_code == 0, (verb, summary.outcomes)
        ended = [[(Path(own.item_id).name, own.status) for own in told.outcomes] for told in (remote[verb], summary)]
        assert ended[0] == ended[1], verb
    expected = {
        own.relative_to(tmp_path / "local").as_posix(): own.read_bytes()
        for own in (tmp_path / "local").rglob("*")
        if own.is_file()
    }
    found = {key.removeprefix("work/"): data for key, data in objects(port, bucket).items() if key.startswith("work/")}
    found = {key: data for key, data in found.items() if ".gigamil" not in key.split("/")}
    assert sorted(found) == sorted(expected)
    differing = [key for key, data in expected.items() if found[key] != data and Path(key).name not in MEASURED]
    assert differing == []
    assert found["run/oof.csv"] == expected["run/oof.csv"]
    assert sum(count for kind, count in bad_proxy.did.items() if kind != "passed") > 5

    again: dict[str, Summary] = run_stages(f"s3://{bucket}/cohort", f"s3://{bucket}/work")
    for verb in ("tile", "extract", "train", "predict", "heatmap"):
        assert {own.status for own in again[verb].outcomes} == {Status.SKIPPED}, verb
    assert not [own for own in (tmp_path / "scratch").rglob("*") if own.is_file()]
