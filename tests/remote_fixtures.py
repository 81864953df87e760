"""Fixtures: an S3 server of this machine, directly and behind a bad proxy; a bucket of its own for each test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from remote_server import BadProxy, make_bucket, point_to, s3_server

_numbers = count()


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of an empty bucket; S3 is the server of this machine, scratch a folder of the test."""
    point_to(f"http://127.0.0.1:{port}", monkeypatch)
    monkeypatch.setenv("GIGAMIL_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("GIGAMIL_REMOTE_PATIENCE", "120")
    name = f"bucket-{next(_numbers)}"
    make_bucket(port, name)
    return name


@pytest.fixture
def bad_proxy(port: int, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadProxy]:
    """The same server, behind a proxy that spoils every tenth answer."""
    proxy = BadProxy(port, 0.1, stall_s=4)
    point_to(proxy.url, monkeypatch)
    monkeypatch.setenv("GIGAMIL_REMOTE_TIMEOUT", "2")
    yield proxy
    proxy.stop()
