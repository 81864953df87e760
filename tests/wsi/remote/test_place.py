"""Objects behind URLs: what is fetched and written through a bad network is what was meant, or one clear line."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from remote_server import BadProxy, client_of, objects, point_to

from wsi.errors import RemoteError, RequestError
from wsi.remote.place import Place

ANY = np.random.default_rng(0).bytes(5_000_000)


def test_what_goes_through_a_bad_network_is_whole(
    bad_proxy: BadProxy, bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi.remote.place._PART", 100_000)
    place = Place(f"s3://{bucket}/folder")
    source = tmp_path / "source"
    source.write_bytes(ANY[:2_000_000])
    for number in range(10):
        place.write(f"small/{number}", ANY[:number])
    place.put("large", source)
    place.fetch("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == ANY[:2_000_000]
    assert list(place.files()) == ["large", *(f"small/{number}" for number in range(10))]
    assert [place.read(f"small/{number}") for number in range(10)] == [ANY[:number] for number in range(10)]
    assert (place.read("small/none"), place.info("none")) == (None, None)
    place.remove([f"small/{number}" for number in range(10)])
    assert list(objects(port, bucket)) == ["folder/large"]
    assert sum(bad_proxy.did[kind] for kind in bad_proxy.did if kind != "passed") >= 1, bad_proxy.did


def test_a_large_upload_goes_in_parts(bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi.remote.place._UPLOADED_PART", 5 << 20)  # S3's least
    source = tmp_path / "source"
    source.write_bytes(ANY * 3)
    Place(f"s3://{bucket}").put("large", source)
    tag = client_of(port).head_object(Bucket=bucket, Key="large")["ETag"]
    assert tag.strip('"').endswith("-3")  # as S3 names what came in three parts
    assert hashlib.sha256(objects(port, bucket)["large"]).digest() == hashlib.sha256(ANY * 3).digest()


def test_what_changes_while_it_is_fetched_is_refused(
    bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi.remote.place._PART", 10)
    client = client_of(port)
    client.put_object(Bucket=bucket, Key="a", Body=b"x" * 35)
    place = Place(f"s3://{bucket}")
    found = place.info("a")
    client.put_object(Bucket=bucket, Key="a", Body=b"y" * 35)
    with pytest.raises(RemoteError, match=rf"s3://{bucket}/a: it was replaced while it was fetched"):
        place.fetch("a", tmp_path / "a", found)
    assert list(tmp_path.glob("a*")) == []


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s3://no-such-bucket-at-all/a", "there is no such bucket"),
        ("nosuch://bucket/a", "the file system of this URL is not installed|cannot be read.*nosuch"),
        ("s3://AKIAKEY:SECRETWORD@bucket/a", "credentials in a URL are not read"),
    ],
)
def test_wrong_requests_are_one_line(bucket: str, url: str, line: str) -> None:
    with pytest.raises(RequestError, match=line) as caught:
        Place(url).files()
    assert "\n" not in str(caught.value)
    assert "SECRETWORD" not in str(caught.value)


def test_a_dead_network_ends_in_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setenv("GIGAMIL_REMOTE_PATIENCE", "0.5")
    with pytest.raises(RemoteError, match="the network failed again and again") as caught:
        Place(f"s3://{bucket}/dead").read("a")
    assert "\n" not in str(caught.value)


def test_denied_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.asyn import AsyncFileSystem

    async def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    assert issubclass(__import__("s3fs").S3FileSystem, AsyncFileSystem)
    monkeypatch.setattr("s3fs.S3FileSystem._call_s3", denied)
    with pytest.raises(RequestError, match=r"access denied \(Access Denied\): check the credentials"):
        Place(f"s3://{bucket}").read("a")
