"""What is published is whole for readers or nothing; what was saved unfinished is for the run that goes on alone."""

from pathlib import Path

import pytest
from remote_server import client_of, objects

from wsi.errors import ClaimedError, RemoteError, RequestError
from wsi.remote.claim import claim_remotely
from wsi.remote.place import Place
from wsi.remote.published import fetch_item, files_of, lies_whole, publish, read_record
from wsi.remote.staged import fetch_earlier


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name in ("config.toml", "fold0/model", "fold1/model", ".x.lock", ".metrics.json.host.0a1b2c3d.7.partial"):
        path = tmp_path / "here" / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return tmp_path / "here"


def put(place: Place, run: Path, *, whole: bool = True) -> None:
    with claim_remotely(place, "run") as held:
        publish(run, files_of(run, "run"), held, "asked", whole=whole)


def test_a_changed_item_sends_what_changed_and_loses_what_went(
    run: Path, bucket: str, port: int, tmp_path: Path
) -> None:
    place = Place(f"s3://{bucket}/work")
    put(place, run)
    names = ["run/config.toml", "run/fold0/model", "run/fold1/model"]
    assert [key for key in objects(port, bucket) if ".gigamil" not in key] == [f"work/{name}" for name in names]
    before = place.info("run/fold0/model")
    client_of(port).put_object(Bucket=bucket, Key="work/run/pages/index.html", Body=b"another item, of `page`")
    (run / "run/fold1/model").unlink()
    (run / "run/config.toml").write_text("other")
    put(place, run)
    assert sorted(place.files("run")) == ["run/config.toml", "run/fold0/model", "run/pages/index.html"]
    assert place.info("run/fold0/model") == before, "sent again"
    record = fetch_item(place, "run", tmp_path / "there")
    assert record is not None
    assert lies_whole(place, "run", record)
    assert sorted(own.name for own in (tmp_path / "there").rglob("*") if own.is_file()) == ["config.toml", "model"]
    assert (tmp_path / "there/run/config.toml").read_text() == "other"


def test_a_half_is_refused_and_so_is_what_was_changed(run: Path, bucket: str, port: int, tmp_path: Path) -> None:
    place = Place(f"s3://{bucket}")
    put(place, run, whole=False)
    with pytest.raises(RemoteError, match="run is being published, or publishing it was cut off"):
        fetch_item(place, "run", tmp_path / "a")
    fetch_earlier(place, "run", tmp_path / "b")
    assert (tmp_path / "b/run/fold1/model").read_text() == "content of fold1/model"
    put(place, run)
    client_of(port).put_object(Bucket=bucket, Key="run/fold0/model", Body=b"Content of fold0/model")
    with pytest.raises(RemoteError, match="run/fold0/model: its bytes are not those that were published"):
        fetch_item(place, "run", tmp_path / "c")
    client_of(port).delete_object(Bucket=bucket, Key="run/fold0/model")
    with pytest.raises(RemoteError, match="run/fold0/model: expected 22 bytes as published"):
        fetch_item(place, "run", tmp_path / "c")
    record = read_record(place, "run")
    assert record is not None
    assert not lies_whole(place, "run", record)
    with pytest.raises(RequestError, match=r"s3://.*/none does not exist"):
        fetch_item(place, "none", tmp_path / "c")


def test_who_lost_the_claim_makes_nothing_whole(run: Path, bucket: str) -> None:
    place = Place(f"s3://{bucket}")
    with claim_remotely(place, "run") as held:
        place.remove([held.key])  # as who takes over from one that slept
        with pytest.raises(ClaimedError):
            publish(run, files_of(run, "run"), held, "asked")
    assert place.files() == {}
