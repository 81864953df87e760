"""A verb whose options name URLs gets this machine's copies, and what it makes goes behind them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest
from remote_server import client_of, objects

from wsi.errors import ItemError, RemoteError, RequestError
from wsi.machine.interrupt import Leaving
from wsi.options import Option, check, stage
from wsi.progress.outcome import Outcome, Status, Summary
from wsi.remote.place import Place
from wsi.urls import UrlPath, path_of, url_of


@dataclass(frozen=True, kw_only=True)
class CopyOptions:
    """Options of the verb of these tests."""

    source: Path
    """What to copy."""
    out: Annotated[Path, Option(remote="output")]
    """Where to."""
    times: int = 1
    """How often."""
    here: Annotated[Path | None, Option(remote="local")] = None
    """A path of this machine."""

    def __post_init__(self) -> None:
        check(self)


def copying(then: Callable[[CopyOptions], None] = lambda options: None) -> Callable[[CopyOptions], Summary]:
    @stage
    def copy(options: CopyOptions) -> Summary:
        """Go on from what is there; write a file for each further time."""
        assert not isinstance(options.out, UrlPath)
        options.out.mkdir(parents=True, exist_ok=True)
        begun = len(list(options.out.glob("part*")))
        (options.out / f"part{begun}").write_bytes(options.source.read_bytes())
        then(options)
        return Summary("copy", [Outcome(str(options.out), Status.DONE, f"part {begun}")], 1.0)

    return copy


@pytest.fixture
def options(bucket: str, port: int) -> CopyOptions:
    client_of(port).put_object(Bucket=bucket, Key="in/source", Body=b"content")
    return CopyOptions(source=Path(f"s3://{bucket}/in/source"), out=path_of(f"s3://{bucket}/out/copy"))


def test_it_runs_once_for_a_request(options: CopyOptions, bucket: str, port: int, tmp_path: Path) -> None:
    (first,) = copying()(options).outcomes
    assert first == Outcome(f"s3://{bucket}/out/copy", Status.DONE, "part 0")
    assert objects(port, bucket)["out/copy/part0"] == b"content"
    (again,) = copying()(options).outcomes
    assert (again.item_id, again.status) == (f"s3://{bucket}/out/copy", Status.SKIPPED)
    client_of(port).put_object(Bucket=bucket, Key="in/source", Body=b"changed")
    (other,) = copying()(options).outcomes
    assert other.reason == "part 1", "a changed input was taken for the same"
    assert objects(port, bucket)["out/copy/part1"] == b"changed"
    assert not [own for own in (tmp_path / "scratch").rglob("*") if own.is_file()]


def test_asked_to_leave_it_saves_and_goes_on_on_another_machine(
    options: CopyOptions, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(_: CopyOptions) -> None:
        raise Leaving

    with pytest.raises(Leaving):
        copying(leave)(options)
    with pytest.raises(RemoteError, match="is being published, or publishing it was cut off"):
        copying()(CopyOptions(source=options.out, out=path_of(f"s3://{bucket}/out/of-a-half")))
    monkeypatch.setenv("GIGAMIL_SCRATCH", str(tmp_path / "of another machine"))
    (outcome,) = copying()(options).outcomes
    assert outcome.reason == "part 1", "it began anew"


def test_messages_name_urls(options: CopyOptions, bucket: str) -> None:
    def fail(own: CopyOptions) -> None:
        raise ItemError(f"{own.source}: no good, nor is {own.out}/part0")

    with pytest.raises(ItemError) as caught:
        copying(fail)(options)
    assert str(caught.value) == f"s3://{bucket}/in/source: no good, nor is s3://{bucket}/out/copy/part0"
    with pytest.raises(RequestError, match=r"--here s3://b/x: expected a path of this machine"):
        copying()(CopyOptions(source=options.source, out=options.out, here=Path("s3://b/x")))
    with pytest.raises(RequestError, match=rf"s3://{bucket}/in/none does not exist"):
        copying()(CopyOptions(source=Path(f"s3://{bucket}/in/none"), out=options.out))


def writing(then: Callable[[CopyOptions], None] = lambda options: None) -> Callable[[CopyOptions], Summary]:
    @stage
    def write(options: CopyOptions) -> Summary:
        """Write a table, then a file; beside both lies what a killed writer left."""
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_name("w.steps.csv").write_text(f"{options.times}")
        options.out.with_name(".w.json.1.partial").write_text("half")
        then(options)
        (options.out.with_name("w.log") / "today").mkdir(parents=True)
        (options.out.with_name("w.log") / "today" / "events").write_text("events")
        options.out.write_text(f"{options.times}")
        return Summary("write", [Outcome(str(options.out), Status.DONE)], 1.0)

    return write


def test_what_lies_beside_a_file_goes_with_it_and_inputs_do_not(bucket: str, port: int) -> None:
    """Also where an input bears the stem of the output."""
    client_of(port).put_object(Bucket=bucket, Key="out/w.source.csv", Body=b"content")
    client_of(port).put_object(Bucket=bucket, Key="out/w2.csv", Body=b"another's")
    options = CopyOptions(source=Path(f"s3://{bucket}/out/w.source.csv"), out=path_of(f"s3://{bucket}/out/w.bin"))
    writing()(options)
    record = json.loads(objects(port, bucket)["out/.gigamil/w.bin.json"])
    assert sorted(record["files"]) == ["w.bin", "w.log/today/events", "w.steps.csv"]
    found = {key: data for key, data in objects(port, bucket).items() if ".gigamil" not in key}
    assert found == {
        "out/w.source.csv": b"content", "out/w2.csv": b"another's", "out/w.bin": b"1", "out/w.steps.csv": b"1",
        "out/w.log/today/events": b"events",
    }  # fmt: skip
    assert [own.status for own in writing()(options).outcomes] == [Status.SKIPPED]


def test_a_failure_leaves_what_lies_beside_and_an_earlier_file_as_it_is(options: CopyOptions, bucket: str) -> None:
    def fail(own: CopyOptions) -> None:
        raise ItemError(f"no file; the table is {own.out.with_name('w.steps.csv')}")

    first = replace(options, out=path_of(f"s3://{bucket}/out/w.bin"))
    place = Place(f"s3://{bucket}/out")
    with pytest.raises(ItemError, match=rf"the table is s3://{bucket}/out/w.steps.csv"):
        writing(fail)(first)
    assert place.read("w.steps.csv") == b"1"
    with pytest.raises(RemoteError, match="is being published, or publishing it was cut off"):
        copying()(replace(options, source=first.out))
    writing()(first)
    with pytest.raises(ItemError):
        writing(fail)(replace(first, times=2))
    assert (place.read("w.bin"), place.read("w.steps.csv")) == (b"1", b"1")
    assert [own.status for own in writing()(first).outcomes] == [Status.SKIPPED]


def test_a_url_is_kept_whole_where_a_path_stands() -> None:
    options = CopyOptions(source=Path("s3://bucket/a/b.svs"), out=Path("file:///tmp/x"))
    assert str(options.source) == "s3://bucket/a/b.svs"
    assert (options.out, type(options.out)) == (Path("/tmp/x"), type(Path()))
    assert str(options.source.parent / "c") == "s3://bucket/a/c"
    assert (options.source.name, options.source.suffix, options.source.absolute()) == ("b.svs", ".svs", options.source)
    assert [url_of(own) for own in ("s3:/b/x/", "C:/x", "/s3://b", "a/b", "file:///x")] == ["s3://b/x", "", "", "", ""]
