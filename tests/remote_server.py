"""An object store for tests: moto's S3 server on loopback, and a proxy before it that treats answers badly."""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

KINDS = ("lost request", "lost answer", "stall", "cut")
"""The request never arrives; it is carried out, and the answer is lost; nothing comes for a while; half an answer."""


class BadProxy:
    """Passes HTTP requests on, one a connection, and spoils a seeded share of the answers."""

    def __init__(self, port: int, share: float, seed: int = 0, stall_s: float = 3.0) -> None:
        self._upstream, self.share, self._stall_s = port, share, stall_s
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.did: Counter[str] = Counter()
        self.before: Callable[[str, str], None] = lambda method, path: None
        """Called with each request before it is passed on; an `OSError` of it, and the request is not."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()

    def stop(self) -> None:
        """End the proxy and its connections."""

        async def end() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.05)  # transports close in the loop's next rounds
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(end(), self._loop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        method, path = head[0].decode().split(" ")[:2]
        fields = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head[1:-2]}
        if b"expect" in fields:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b"transfer-encoding" not in fields
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        self.before(method, path)
        fault = self._random.choice(KINDS) if self._random.random() < self.share else ""
        self.did[fault or "passed"] += 1
        if fault == "lost request":
            return
        kept = [line for line in head[1:-2] if line.partition(b":")[0].lower() not in {b"expect", b"connection"}]
        data = await self._asked(b"\r\n".join([head[0], *kept, b"Connection: close", b"", b""]) + body)
        if fault == "lost answer":
            return
        if fault == "stall":
            await asyncio.sleep(self._stall_s)
            return
        writer.write(data[: len(data) // 2] if fault == "cut" else data)
        await writer.drain()

    async def _asked(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


@contextmanager
def s3_server() -> Iterator[int]:
    """Give the port of an S3 server on 127.0.0.1."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let S3 of this process, and of those that it starts, be the server behind a URL."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # they keep the endpoint that they were made for
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "TESTSECRETWORD",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(name, value)


def client_of(port: int) -> "boto3.client":
    """Return boto3's client of the server itself."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)


def make_bucket(port: int, name: str, folder: Path | None = None, prefix: str = "") -> None:
    """Make a bucket, unless it is there, with the files of a folder in it."""
    client = client_of(port)
    client.create_bucket(Bucket=name)
    if folder is None:
        return
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.put_object(Bucket=name, Key=prefix + file.relative_to(folder).as_posix(), Body=file.read_bytes())


def objects(port: int, bucket: str) -> dict[str, bytes]:
    """Return the contents of a bucket, by key."""
    client, found = client_of(port), {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for own in page.get("Contents", ()):
            found[own["Key"]] = client.get_object(Bucket=bucket, Key=own["Key"])["Body"].read()
    return found
