"""The local server: what it shows is what the stores hold, and nobody gets more than was named."""

import json
import os
import resource
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import imagecodecs
import numpy as np
import pytest
from asking import Answer, Server, served_of, serving
from making import RGB, write_deflate

from wsi.store.codecs import Jpeg
from wsi.store.layout import shard_key
from wsi.store.tile_store import TileStore
from wsi.viewing.annotation_file import MOST_BYTES
from wsi.viewing.picture import StorePicture
from wsi.viewing.server.access import Access
from wsi.viewing.server.connections import MOST_CONNECTIONS

SECRET = b"only for the administrator"
POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [10, 20]}, "properties": {"name": "here"}}


def collection(*features: object) -> bytes:
    return json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_store: TileStore, second_store: TileStore) -> Path:
    """Two stores, zstd and JPEG, beside a file that nobody named."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "secret.txt").write_bytes(SECRET)
    for store in (small_store, second_store):
        copytree(store.path, folder / "stores" / store.path.name)  # type: ignore[union-attr]
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, pyramid_slide: Path) -> Iterator[Server]:
    served = served_of((folder / "stores",), (pyramid_slide,), judgements=folder / "judgements.jsonl")
    with serving(served) as server:
        yield server


@pytest.fixture
def slide(server: Server, folder: Path) -> Iterator[str]:
    """The address of a slide of which nothing is drawn."""
    path = folder / "stores" / "049194_0.geojson"
    yield "/slides/049194_0"
    path.unlink(missing_ok=True)
    assert sorted(own.name for own in folder.iterdir() if own.name != "judgements.jsonl") == ["secret.txt", "stores"]


def test_tiles_are_the_stores_pixels(server: Server, small_store: TileStore) -> None:
    tiles = small_store.read_tiles(range(len(small_store)))
    for (row, column), tile in zip(small_store.tiles_yx.tolist(), tiles, strict=True):
        answer = server.ask(f"/slides/049194_0/tiles/0/{row}_{column}.jpg")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
        pixels = np.ascontiguousarray(tile.transpose(1, 2, 0))
        shown = imagecodecs.jpeg8_decode(answer.body)
        expected = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(pixels, 90, subsampling="444"))
        np.testing.assert_array_equal(shown, expected)
        assert np.abs(shown.astype(int) - pixels).mean() < 4  # JPEG's loss, on noise


def test_jpeg_chunks_are_sent_as_they_lie_in_the_shard(tmp_path: Path, pyramid_slide: Path, tiled) -> None:  # type: ignore[no-untyped-def]
    store = tiled(pyramid_slide, tmp_path, target_mpp=0.25)
    assert isinstance(store.codec_of(0), Jpeg)
    with serving(served_of((store.path,))) as server:
        for index in range(0, len(store), 3):
            row, column = store.tiles_yx[index].tolist()
            side = store.grid.shard_tiles(0)
            place = (shard_key(0, row // side, column // side), row % side * side + column % side)
            (chunk,) = store.folder.chunks([place], side**2)
            body = server.ask(f"/slides/{store.image_id}/tiles/0/{row}_{column}.jpg").body
            assert body == bytes(chunk)[:-4]  # without the checksum behind it
            np.testing.assert_array_equal(
                imagecodecs.jpeg8_decode(body), store.read_tiles([index])[0].transpose(1, 2, 0)
            )


def test_where_no_tile_is_stored_stands_the_slides_own_background(server: Server, small_store: TileStore) -> None:
    picture = StorePicture(small_store)
    assert picture.background != (255, 255, 255)
    for level in (0, 1):
        absent = np.argwhere(~picture.present(level)).tolist()
        for row, column in absent[:3]:
            answer = server.ask(f"/slides/049194_0/tiles/{level}/{row}_{column}.jpg")
            pixels = imagecodecs.jpeg8_decode(answer.body).astype(int)
            assert np.abs(pixels - picture.background).max() <= 1
    rows, columns = picture.present(0).shape
    for place in (f"0/{rows}_0", f"0/0_{columns}", "9/0_0", "0/999999999_0"):
        assert server.ask(f"/slides/049194_0/tiles/{place}.jpg").status == 404


def test_documents_and_pages_are_there(server: Server) -> None:
    cohort = server.ask("/cohort.js")
    assert cohort.headers["Content-Type"].startswith("text/javascript")
    assert [row["id"] for row in _told(cohort, "cohort")["slides"]] == ["008e5c_0", "049194_0"]
    slide = _told(server.ask("/slides/049194_0/slide.js"), "slide")
    assert slide["api"]["annotations"] == "annotations"
    assert [name for name, _ in slide["api"]["siblings"]] == ["008e5c_0", "049194_0"]
    assert server.ask("/slides/049194_0/thumb.jpg").body[:2] == b"\xff\xd8"
    for page in ("/", "/index.html", "/slides/049194_0/", "/slides/049194_0/index.html"):
        assert b"<html" in server.ask(page).body
    head = server.ask("/slides/049194_0/tiles/0/2_2.jpg", "HEAD")
    assert (head.status, head.body) == (200, b"")


def _told(answer: Answer, call: str) -> dict[str, Any]:
    text = answer.body.decode()
    assert text.startswith(f"gigamil.{call}(")
    told: dict[str, Any] = json.loads(text.strip().removeprefix(f"gigamil.{call}(").removesuffix(");"))
    return told


def test_every_answer_has_the_headers_of_safety(server: Server) -> None:
    for path in ("/", "/cohort.js", "/slides/049194_0/tiles/0/2_2.jpg", "/stores/049194_0.zarr/zarr.json", "/nothing"):
        headers = server.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers


UP = "../secret.txt", "../../secret.txt", "../../../../../../etc/passwd", "/etc/passwd", "//etc/passwd"
ENCODINGS = {
    "plain": lambda text: text,
    "encoded": lambda text: text.replace("/", "%2f").replace(".", "%2e"),
    "dots": lambda text: text.replace(".", "%2e"),
    "double": lambda text: text.replace("/", "%252f").replace(".", "%252e"),
    "backslashes": lambda text: text.replace("/", "\\"),
    "nul": lambda text: text + "%00.json",
    "overlong": lambda text: text.replace(".", "%c0%ae"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_path_leads_out(server: Server, encoding: str) -> None:
    doors = ("/", "/assets/", "/slides/", "/slides/049194_0/", "/stores/", "/stores/049194_0.zarr/", "/stores/x.zarr/")
    for door in (*doors, "/stores/049194_0.zarr/0/", "/slides/049194_0/tiles/0/"):
        for up in UP:
            answer = server.ask(door + ENCODINGS[encoding](up))
            assert answer.status in {400, 404}, (door, up)
            assert SECRET not in answer.body
            assert b"root:" not in answer.body
    assert server.ask("/").status == 200


def test_links_are_followed_inside_the_store_only(server: Server, folder: Path) -> None:
    store = folder / "stores" / "049194_0.zarr"
    (store / "out.json").symlink_to(folder / "secret.txt")
    (store / "outside").symlink_to(folder)
    (store / "inside.json").symlink_to(store / "zarr.json")
    os.mkfifo(store / "pipe")
    try:
        for name in ("out.json", "outside/secret.txt", "pipe", "0", ".hidden"):
            assert server.ask(f"/stores/049194_0.zarr/{name}").status == 404
        assert server.ask("/stores/049194_0.zarr/inside.json").body == (store / "zarr.json").read_bytes()
    finally:
        for name in ("out.json", "outside", "inside.json", "pipe"):
            (store / name).unlink()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", "[", "a@b:c"])
def test_another_name_for_this_server_is_refused(server: Server, host: str) -> None:
    for path in ("/", "/cohort.js", "/stores/049194_0.zarr/zarr.json", "/nothing"):
        assert server.ask(path, headers={"Host": host.format(port=server.port)}).status in {400, 403}
    for own in ("localhost", f"localhost:{server.port}", "[::1]:80", "127.0.0.1"):  # a tunnel has another port
        assert server.ask("/", headers={"Host": own}).status == 200


ORIGINS = ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "http://127.0.0.1.evil.example"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_others_cannot_write(server: Server, slide: str, folder: Path, origin: str) -> None:
    headers = {"Origin": origin, "If-Match": '"absent"', "Content-Type": "application/json"}
    assert server.ask(f"{slide}/annotations", "PUT", collection(POINT), headers).status == 403
    assert server.ask("/judgements", "POST", {"slide": "049194_0", "verdict": "unsure"}, headers).status == 403
    assert server.ask("/reader", "PUT", {"name": "A"}, headers).status == 403
    cross = server.own | {"Sec-Fetch-Site": "cross-site", "If-Match": '"absent"'}
    assert server.ask(f"{slide}/annotations", "PUT", collection(POINT), cross).status == 403
    assert not (folder / "stores" / "049194_0.geojson").exists()
    assert not (folder / "judgements.jsonl").exists()


def test_only_some_methods_are_known(server: Server) -> None:
    for method in ("DELETE", "PATCH", "TRACE", "CONNECT", "GARBAGE"):
        assert server.ask("/slides/049194_0/annotations", method, b"", server.own).status in {400, 403, 404, 405}


def test_two_tabs_cannot_overwrite_each_other(server: Server, slide: str, folder: Path) -> None:
    path = folder / "stores" / "049194_0.geojson"
    first = server.ask(f"{slide}/annotations")
    assert (first.status, first.headers["Etag"], first.json["features"]) == (200, '"absent"', [])
    one, other = server.own | {"If-Match": '"absent"'}, collection(POINT, POINT)
    saved = server.ask(f"{slide}/annotations", "PUT", collection(POINT), one)
    assert (saved.status, saved.json["count"]) == (200, 1)
    refused = server.ask(f"{slide}/annotations", "PUT", other, one)
    assert refused.status == 412
    assert refused.json["etag"] == refused.headers["Etag"] == saved.headers["Etag"]
    assert len(json.loads(path.read_bytes())["features"]) == 1
    again = server.ask(f"{slide}/annotations", "PUT", other, server.own | {"If-Match": saved.headers["Etag"]})
    assert again.status == 200
    read = server.ask(f"{slide}/annotations")
    assert read.headers["Etag"] == again.headers["Etag"] != saved.headers["Etag"]
    assert [own["properties"]["name"] for own in read.json["features"]] == ["here", "here"]
    for tag in ("", "*"):  # who has seen nothing may not write
        assert server.ask(f"{slide}/annotations", "PUT", other, server.own | {"If-Match": tag}).status == 428
    path.write_bytes(collection())  # by another program, as QuPath
    late = server.ask(f"{slide}/annotations", "PUT", other, server.own | {"If-Match": read.headers["Etag"]})
    assert late.status == 412
    assert path.read_bytes() == collection()


def test_of_many_that_save_at_once_one_wins(server: Server, slide: str, folder: Path) -> None:
    answers: list[Answer] = []

    def save(number: int) -> None:
        body = collection(POINT | {"properties": {"name": f"tab {number}"}})
        answers.append(server.ask(f"{slide}/annotations", "PUT", body, server.own | {"If-Match": '"absent"'}))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [412] * 11
    (winner,) = [answer for answer in answers if answer.status == 200]
    assert server.ask(f"{slide}/annotations").headers["Etag"] == winner.headers["Etag"]


MALFORMED = {
    "no JSON": b"{",
    "no collection": b'{"type": "Other"}',
    "a number": b"1",
    "binary": bytes(range(256)),
    "deep": b"[" * 200_000,
    "no place": json.dumps(POINT | {"geometry": {"type": "Polygon", "coordinates": [[["a", 1]]]}}).encode(),
    "not finite": collection(POINT).replace(b"10", b"NaN"),
    "a bomb": zlib.compress(b" " * 1000),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_annotation_is_refused(server: Server, slide: str, folder: Path, kind: str) -> None:
    answer = server.ask(f"{slide}/annotations", "PUT", MALFORMED[kind], server.own | {"If-Match": '"absent"'})
    assert answer.status == 400
    assert "\n" not in answer.json["error"]
    assert not (folder / "stores" / "049194_0.geojson").exists()


def test_what_is_too_large_is_refused_before_it_comes(server: Server, slide: str, folder: Path) -> None:
    for path, size, expected in (
        (f"{slide}/annotations", MOST_BYTES + 1, 413),
        ("/judgements", 1 << 20, 400),
        ("/reader", 1 << 20, 400),
        ("/", 1 << 20, 400),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            method = {"/judgements": "POST", "/": "GET"}.get(path, "PUT")
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nIf-Match: x\r\nContent-Length: {size}\r\n\r\n"
            client.sendall(head.encode())
            assert int(client.recv(64).split()[1]) == expected
    chunked = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        head = (
            f"PUT {slide}/annotations HTTP/1.1\r\nHost: localhost\r\nIf-Match: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        client.sendall(head.encode())
        assert _is_cut_off(client, chunked)
    assert not (folder / "stores" / "049194_0.geojson").exists()
    assert server.ask("/").status == 200


def _is_cut_off(client: socket.socket, part: bytes) -> bool:
    try:
        for _ in range(200):
            client.sendall(part)
        return client.recv(64) == b""
    except ConnectionError:
        return True


def test_annotations_that_lie_elsewhere_or_are_broken_are_neither_shown_nor_replaced(
    server: Server, slide: str, folder: Path
) -> None:
    path = folder / "stores" / "049194_0.geojson"
    path.symlink_to(folder / "secret.txt")
    for method in ("GET", "PUT"):
        answer = server.ask(f"{slide}/annotations", method, collection(), server.own | {"If-Match": '"absent"'})
        assert answer.status == 400
        assert SECRET not in answer.body
    assert path.is_symlink()
    path.unlink()
    path.write_bytes(b"{")
    for method in ("GET", "PUT"):
        answer = server.ask(f"{slide}/annotations", method, collection(), server.own | {"If-Match": '"absent"'})
        assert answer.status == 400
    assert path.read_bytes() == b"{"


@pytest.fixture
def with_token(folder: Path) -> Iterator[Server]:
    with serving(served_of((folder / "stores",)), Access("127.0.0.1", "right-token")) as server:
        yield server


def test_a_token_opens_everything_and_nothing_opens_without(with_token: Server) -> None:
    ask = with_token.ask
    for path in ("/", "/cohort.js", "/stores/049194_0.zarr/zarr.json", "/slides/049194_0/tiles/0/2_2.jpg", "/x"):
        assert ask(path).status == 401
        assert ask(f"{path}?token=wrong-token").status == 401
        assert ask(f"{path}?token=").status == 401
        assert ask(path, headers={"Cookie": f"gigamil_token_{with_token.port}=wrong"}).status == 401
    first = ask("/cohort.js?token=right-token&a=1")
    assert (first.status, first.headers["Location"]) == (302, "/cohort.js?a=1")  # the address bar forgets it
    cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert ask("/cohort.js", headers={"Cookie": cookie.split(";")[0]}).status == 200
    assert ask("/cohort.js", headers={"Authorization": "Bearer right-token"}).status == 200
    away = ask("//evil.example/?token=right-token")
    assert not away.headers.get("Location", "/").startswith("//")


def test_a_thousand_half_open_connections_do_not_stop_it(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1000 + MOST_CONNECTIONS + 300
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    clients = []
    try:
        for number in range(1000):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localh" if number % 2 else b"G")
            clients.append(client)
            if number % 250 == 249:
                assert server.ask("/slides/049194_0/tiles/0/2_2.jpg").status == 200
        assert server.ask("/").status == 200
        closed = sum(_is_closed(client) for client in clients)
        assert closed >= 1000 - MOST_CONNECTIONS
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_parts_of_files_come_as_parts(server: Server, folder: Path) -> None:
    store = folder / "stores" / "049194_0.zarr"
    key = "0/c/0/0/0"
    whole = (store / key).read_bytes()
    size, url = len(whole), f"/stores/049194_0.zarr/{key}"
    for asked, (start, stop) in {
        "bytes=0-0": (0, 1),
        "bytes=5-104": (5, 105),
        f"bytes=-{16 * 256 + 4}": (size - 16 * 256 - 4, size),
        "bytes=100-": (100, size),
        f"bytes=100-{size + 50}": (100, size),
        f"bytes=-{size + 50}": (0, size),
    }.items():
        answer = server.ask(url, headers={"Range": asked})
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.body == whole[start:stop]
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=10-5"):
        assert server.ask(url, headers={"Range": asked}).status == 416
    for asked in ("bytes=0-1,5-6", "bytes=-", "lines=1-2", "bytes=a-b"):  # the whole is a right answer, too
        assert server.ask(url, headers={"Range": asked}).body == whole
    head = server.ask(url, "HEAD")
    assert (head.status, head.headers["Content-Length"], head.headers["Accept-Ranges"]) == (200, str(size), "bytes")


def test_pages_of_others_read_the_stores_on_request_only(server: Server, folder: Path) -> None:
    url, origin = "/stores/049194_0.zarr/zarr.json", {"Origin": "https://viewer.example"}
    assert "Access-Control-Allow-Origin" not in server.ask(url, headers=origin).headers
    assert server.ask(url, "OPTIONS", headers=origin).status == 403
    access = Access("127.0.0.1", None, cors=("https://viewer.example",))
    with serving(served_of((folder / "stores",)), access) as allowing:
        for path in (url, "/stores/049194_0.zarr/0/c/0/77/0"):  # what is absent, too: readers take it for background
            answer = allowing.ask(path, headers=origin)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
        assert answer.status == 404
        asked = allowing.ask(url, "OPTIONS", headers=origin | {"Access-Control-Request-Headers": "range"})
        assert asked.status == 204
        assert "Range" in asked.headers["Access-Control-Allow-Headers"]
        other = allowing.ask(url, headers={"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert "Access-Control-Allow-Origin" not in allowing.ask("/cohort.js", headers=origin).headers


def test_our_own_reader_opens_the_stores_by_url(server: Server, small_store: TileStore) -> None:
    pytest.importorskip("aiohttp")
    store = TileStore(f"http://127.0.0.1:{server.port}/stores/049194_0.zarr")
    np.testing.assert_array_equal(store.tiles_yx, small_store.tiles_yx)
    np.testing.assert_array_equal(store.read_tiles([0, 5, 7]), small_store.read_tiles([0, 5, 7]))


def test_a_flipped_bit_is_told_and_not_shown(tmp_path: Path, pyramid_slide: Path, tiled) -> None:  # type: ignore[no-untyped-def]
    store = tiled(pyramid_slide, tmp_path, target_mpp=0.25)
    row, column = store.tiles_yx[0].tolist()
    side = store.grid.shard_tiles(0)
    path = store.path / shard_key(0, row // side, column // side)
    data = bytearray(path.read_bytes())
    index = len(data) - 16 * side**2 - 4 + 16 * (row % side * side + column % side)
    (offset,) = struct.unpack("<Q", data[index : index + 8])
    data[offset + 900] ^= 4
    path.write_bytes(data)
    with serving(served_of((store.path,))) as server:
        answer = server.ask(f"/slides/{store.image_id}/tiles/0/{row}_{column}.jpg")
        assert answer.status == 500
        assert f"tile ({row}, {column})" in answer.json["error"]
        assert server.ask(f"/slides/{store.image_id}/thumb.jpg").status in {200, 500}


def test_slides_without_a_store_and_stores_behind_urls_are_shown(
    tmp_path: Path, small_store: TileStore, slide_pixels: RGB
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(small_store.path), "/view/a_0.zarr", recursive=True)
    live = write_deflate(tmp_path / "b_0.tif", slide_pixels, resolution=(1, 1), resolutionunit="NONE")
    try:
        with serving(served_of(("memory://view",), (live,))) as server:
            for name in ("a_0", "b_0"):
                document = _told(server.ask(f"/slides/{name}/slide.js"), "slide")
                assert (document["width"], document["height"]) == (1900, 1500)
                assert document["background"] == [236, 238, 237]
                assert server.ask(f"/slides/{name}/thumb.jpg").status == 200
            assert document["mpp"] is None  # the file does not say it
            assert document["api"]["annotations"] == "annotations"
            behind = _told(server.ask("/slides/a_0/slide.js"), "slide")
            assert behind["api"]["annotations"] is None  # nothing can be kept there
            assert server.ask("/slides/a_0/annotations").status == 404
            side = document["tile_px"]
            shown = imagecodecs.jpeg8_decode(server.ask("/slides/b_0/tiles/0/3_4.jpg").body).astype(int)
            expected = slide_pixels[3 * side : 4 * side, 4 * side : 5 * side]
            assert np.abs(shown - expected).mean() < 4
            row, column = small_store.tiles_yx[0].tolist()
            stored = imagecodecs.jpeg8_decode(server.ask(f"/slides/a_0/tiles/0/{row}_{column}.jpg").body).astype(int)
            assert np.abs(stored - small_store.read_tiles([0])[0].transpose(1, 2, 0)).mean() < 4
            key, part = "0/c/0/0/0", {"Range": "bytes=-68"}
            whole = (small_store.path / key).read_bytes()  # type: ignore[operator]
            answer = server.ask(f"/stores/a_0.zarr/{key}", headers=part)
            assert (answer.status, answer.body) == (206, whole[-68:])
            assert server.ask("/stores/a_0.zarr/0/c/0/99/0").status == 404
            assert server.ask("/stores/b_0.zarr/zarr.json").status == 404
    finally:
        memory.rm("/view", recursive=True)


def test_a_store_that_is_broken_is_named_and_the_others_are_shown(tmp_path: Path, small_store: TileStore) -> None:
    for name in ("a_0", "b_0"):
        copytree(small_store.path, tmp_path / f"{name}.zarr")
    (tmp_path / "b_0.zarr" / "zarr.json").write_text("{")
    with serving(served_of((tmp_path,))) as server:
        assert server.ask("/slides/a_0/slide.js").status == 200
        broken = server.ask("/slides/b_0/slide.js")
        assert broken.status == 500
        assert "b_0.zarr" in broken.json["error"]
        rows = _told(server.ask("/cohort.js"), "cohort")["slides"]
        assert ["problem" in row["values"] for row in rows] == [False, True]
