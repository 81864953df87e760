"""Bags of unknown origin: what points elsewhere, declares too much or is malformed is refused in one line."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from features.bags import hdf5
from features.bags.bag import BagFacts, content_sha256, feature_rows, read_coords, read_features, read_header, write_bag
from features.bags.options import StampOptions, VerifyBagsOptions
from features.bags.stamp import export_stamp
from features.bags.verify import verify_bags
from wsi.errors import BagError
from wsi.progress.outcome import Status

SECRET = b"0123456789abcdef" * 64
YX = np.array([[0, 0], [0, 256], [256, 0]], np.int64)


NO_PROVENANCE = [
    {"encoder": [1]}, {"encoder": 3}, {"encoder": "x"}, {"encoder": []}, {"versions": "x"}, {"versions": [["a", 1]]},
    {"encoder": {"members": 3}}, {"encoder": {"members": [None]}}, {"encoder": {"members": [{"tiles": "x"}]}},
]  # fmt: skip
"""What no encoder can be, and no versions."""


def rows(n: int = 3, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, dim)).astype(np.float32)


def foreign(path: Path, change: Callable[[h5py.File], None] | None = None) -> Path:
    """Write a bag in CLAM's form, changed."""
    with h5py.File(path, "w") as file:
        file["features"] = rows()
        file["coords"] = YX[:, ::-1]
        if change:
            change(file)
    return path


def refused(path: Path, told: str) -> None:
    """Assert that every way of reading says so in one line, or reads nothing of it."""
    errors = []
    for read in (read_header, read_features, feature_rows, read_coords):
        try:
            read(path)
        except BagError as error:
            errors.append(str(error))
    assert errors
    assert all("\n" not in error and path.name in error for error in errors)
    assert any(told in error for error in errors), errors
    (outcome,) = verify_bags(VerifyBagsOptions(bags=(path,))).outcomes
    assert outcome.status is Status.FAILED


def _external_storage(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        secret = Path(file.filename).with_name("secret")
        secret.write_bytes(SECRET)
        kind = {"features": np.float16, "coords": np.int64}[name]
        del file[name]
        width = {"features": 4, "coords": 2}[name]
        file.create_dataset(name, (3, width), kind, external=[(str(secret), 0, len(SECRET))])

    return change


def _virtual(file: h5py.File) -> None:
    other = foreign(Path(file.filename).with_name("other.h5"))
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource(other, "features", (3, 4))
    del file["features"]
    file.create_virtual_dataset("features", layout)


def _linked(link: object, name: str = "features") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        foreign(Path(file.filename).with_name("other.h5"))
        del file[name]
        file[name] = link

    return change


@pytest.mark.parametrize(
    "change",
    [
        _external_storage("features"),
        _external_storage("coords"),
        _virtual,
        _linked(h5py.ExternalLink("other.h5", "/features")),
        _linked(h5py.ExternalLink("other.h5", "/coords"), "coords"),
        _linked(h5py.SoftLink("/features")),
        _linked(h5py.SoftLink("/nowhere")),
        _linked(h5py.SoftLink("/group/features")),
    ],
)
def test_values_of_other_files_are_refused(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    path = foreign(tmp_path / "bag.h5", change)
    refused(path, "refused")
    (outcome,) = export_stamp(StampOptions(bags=(path,), out=tmp_path / "out")).outcomes
    assert outcome.status is Status.FAILED
    assert not list((tmp_path / "out").glob("*"))


def test_a_soft_link_within_the_file_is_followed(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.move("features", "own")
        file["features"] = h5py.SoftLink("/own")

    np.testing.assert_array_equal(read_features(foreign(tmp_path / "bag.h5", change)), rows())


def _declared(shape: tuple[int, int], **how: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["features"], file["coords"]
        file.create_dataset("features", shape, np.float32, **how)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _declared((10**12, 1024)),
        _declared((10**12, 1024), chunks=(16, 1024)),
        _declared((10**12, 1024), chunks=(16, 1024), compression="gzip"),
        _declared((3, 10**12), chunks=(1, 1024)),
    ],
)
def test_more_rows_than_the_file_can_hold_are_refused(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    refused(foreign(tmp_path / "bag.h5", change), "declare")


def test_a_compressed_bag_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["features"], file["coords"]
        large = file.create_dataset("features", (80, 1 << 18), np.float32, chunks=(16, 1 << 18), compression="gzip")
        for row in range(0, 80, 16):
            large[row : row + 16] = 0

    path = foreign(tmp_path / "bag.h5", change)
    assert path.stat().st_size < 2 << 20
    refused(path, "declare")


def _attribute(owner: str, name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        (file if owner == "/" else file[owner]).attrs[name] = value

    return change


def _replaced(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(_attribute("/", "mpp", value) for value in ("x", np.nan, 0.0, -1.0, [0.5, 0.5], h5py.Empty("f"))),
        *(_attribute("/", "tile_px_l0", value) for value in ("x", np.inf, -256)),
        *(_attribute("coords", "patch_size", value) for value in (0, -1, 2**40, "x")),
        *(_attribute("coords", "patch_size_level0", value) for value in (0, np.nan)),
        *(_attribute("coords", "level0_height", value) for value in ("x", 1.5)),
        *(_attribute("coords", "target_magnification", value) for value in (0, "x")),
        *(_attribute("/", "recipe", value) for value in ("[]", "{", "3", '{"a": NaN}', 7, "[" * 5000, b"\xff")),
        *(_attribute("/", "provenance", value) for value in ('{"a":' * 60 + "1" + "}" * 60, "null")),
        *(_attribute("/", "image_id", value) for value in ("../../x", 5, "a/b")),
        *(_replaced("coords", value) for value in (np.zeros((3, 3)), np.zeros(3), np.zeros((2, 2)), "x")),
        _replaced("coords", np.full((3, 2), np.nan)),
        _replaced("features", np.zeros((3, 4), np.int32)),
        _replaced("features", np.zeros((3, 0), np.float32)),
        _replaced("features", "x"),
        _replaced("features", np.full((3, 4), 1e300)),
    ],
)
def test_a_malformed_field_is_one_line(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    refused(foreign(tmp_path / "bag.h5", change), "bag.h5")


def _texts_apart(text: bytes, before: int, now: bytes) -> Callable[[bytes], bytes]:
    """Write some bytes that many before a text, which may be the name of an attribute or a value."""

    def change(data: bytes) -> bytes:
        at = data.index(text) - before
        return data[:at] + now + data[at + len(now) :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _texts_apart(b"GCOL", -16, bytes(4000)),  # HDF5 would step on by nothing for ever
        _texts_apart(b"gigamil-bag", 8, b"\xff\xff\0\0"),  # more than there is room for
        _texts_apart(b"recipe_hash\0", -17, b"\3"),  # neither text nor sequence
    ],
    ids=["no end", "longer", "no type"],
)
def test_texts_that_hdf5_would_not_survive_are_refused(
    tmp_path: Path, facts: BagFacts, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [rows()], YX, facts)
    path.write_bytes(change(path.read_bytes()))
    _refuse_texts(path)


def _refuse_texts(path: Path, told: str = ".*") -> None:
    with pytest.raises(
        BagError, match=rf"bag\.h5: expected a whole HDF5 file, cannot read it \(texts: {told}\): extract it"
    ):
        read_header(path)


@pytest.mark.parametrize("newest", [False, True])
def test_texts_of_any_length_are_read_from_files_of_either_version(tmp_path: Path, newest: bool) -> None:
    path, told = tmp_path / "bag.h5", {"recipe": json.dumps({"a": "x" * 70_000}), "image_id": "s", "provenance": ""}
    with h5py.File(path, "w", libver="latest" if newest else "earliest", userblock_size=512) as file:
        file["features"] = rows()
        file["features"].attrs.update({"encoder": "e", "names": ["a", "bcd", ""]})
        file.attrs.update(told)
    header = read_header(path)
    assert (header.image_id, header.encoder, header.recipe) == ("s", "e", {"a": "x" * 70_000})


APART = [{"libver": "latest"}, {"track_order": True}, {"libver": "latest", "userblock_size": 1024}]
"""Forms in which attributes lie apart from their object, where they are more than eight."""


@pytest.mark.parametrize("form", APART, ids=str)
@pytest.mark.parametrize("count", [9, 60, 1500])
def test_texts_that_lie_apart_from_their_object_are_checked(tmp_path: Path, form: dict[str, Any], count: int) -> None:
    """As many as there is one block for, a table of blocks, and a tree of several levels."""
    path, told = tmp_path / "bag.h5", {f"a{number}": f"text of {number:04}" for number in range(count)}
    long = ["y" * (number % 5) for number in range(5000)]
    with h5py.File(path, "w", **form) as file:
        file["features"] = rows()
        file.attrs.update(told | {"encoder": "e", "image_id": "s", "gone": "x", "more": long, "long": long})
        del file.attrs["gone"]
    assert read_header(path).image_id == "s"
    whole = path.read_bytes()
    for number in (0, count // 2, count - 1):  # its length in the heap, eight bytes before it
        path.write_bytes(_texts_apart(told[f"a{number}"].encode(), 8, b"\x0b")(whole))
        _refuse_texts(path, f"attribute 'a{number}' states 12 bytes, there are 11")
    path.write_bytes(_texts_apart(b"yyyy", 8, b"\x05")(whole))
    _refuse_texts(path, "attribute '(more|long)' states 4 bytes, there are 5")
    path.write_bytes(_texts_apart(b"GCOL", -16, bytes(4000))(whole))
    _refuse_texts(path)


@pytest.mark.parametrize(("mark", "place"), [(b"FRHP", 5), (b"BTHD", 6), (b"BTHD", 10), (b"FRHP", 110), (b"BTLF", 0)])
def test_a_list_of_attributes_that_leads_nowhere_is_refused(tmp_path: Path, mark: bytes, place: int) -> None:
    path = tmp_path / "bag.h5"
    with h5py.File(path, "w", track_order=True) as file:
        file["features"] = rows()
        file.attrs.update({f"a{number}": "x" * 300 for number in range(90)})
    path.write_bytes(_texts_apart(mark, -place, b"\xff\xff")(path.read_bytes()))
    refused(path, "bag.h5: expected a whole HDF5 file")


@pytest.mark.parametrize("kind", ["of a kind with a name", "of parts", "of lists"])
def test_texts_whose_lengths_cannot_be_told_are_refused(tmp_path: Path, kind: str) -> None:
    text = h5py.string_dtype()

    def change(file: h5py.File) -> None:
        if kind == "of a kind with a name":
            file["kind"] = text
            file.attrs.create("note", "x", dtype=file["kind"])
        elif kind == "of parts":
            file.attrs["note"] = np.array([("x", 1)], dtype=[("a", text), ("b", "i4")])
        else:
            pairs = h5py.h5t.array_create(h5py.h5t.py_create(text, logical=True), (2,))
            h5py.h5a.create(file.id, b"note", pairs, h5py.h5s.create_simple((1,)))

    _refuse_texts(foreign(tmp_path / "bag.h5", change), "attribute 'note' is of a type whose lengths cannot be checked")
    foreign(tmp_path / "bag.h5", lambda file: file.attrs.__setitem__("note", np.array([(2, 1)], dtype="i4,f8")))
    assert read_header(tmp_path / "bag.h5").n_tiles == 3


def test_attributes_are_read_through_the_door_alone() -> None:
    """Who opens is held by ruff; this holds who reads: elsewhere, `attrs` are only written."""
    root = Path(hdf5.__file__).parents[2]
    for path in (one for package in ("wsi", "features", "mil", "cli") for one in (root / package).rglob("*.py")):
        text = path.read_text()
        if "hdf5" in text and path != root / "wsi" / "files" / "hdf5.py":
            used = re.findall(r"\.attrs\b(?!\.update\(|\[[^]]+\] = ).*", text)
            assert not used, f"{path}: {used}"


def test_a_pipe_or_a_folder_is_no_bag(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    refused(tmp_path / "pipe.h5", "regular file")
    with pytest.raises(BagError, match="regular file"):
        read_header(tmp_path / "folder.h5")


@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", "<f8", ">f8", "longdouble"])
def test_any_float_type_is_read(tmp_path: Path, kind: str) -> None:
    path = foreign(tmp_path / "bag.h5", _replaced("features", rows().astype(kind)))
    read = feature_rows(path)
    assert read.dtype == (np.float16 if kind.endswith("f2") else np.float32)
    np.testing.assert_array_equal(read, rows().astype(read.dtype))
    np.testing.assert_array_equal(read_features(path), read)


def test_rows_behind_a_user_block_are_mapped_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "bag.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["features"] = rows()
    np.testing.assert_array_equal(feature_rows(path), rows())


def test_the_um_per_px_of_tridents_bags(tmp_path: Path) -> None:
    told = {"patch_size": 256, "patch_size_level0": 1024, "level0_magnification": 40, "target_magnification": 10}

    def change(file: h5py.File) -> None:
        file["coords"].attrs.update(told)

    path = foreign(tmp_path / "bag.h5", change)
    assert (read_header(path).mpp, read_header(path).tile_px) == (1.0, 256)
    del told["target_magnification"]
    assert read_header(foreign(path, change)).mpp == 1.0
    assert read_header(foreign(path)).mpp is None


@pytest.mark.parametrize("part", ["features", "coords"])
def test_a_flipped_bit_is_found_on_use(tmp_path: Path, facts: BagFacts, part: str) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [rows()], YX, facts)
    with h5py.File(path) as file:
        offset = file[part].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 2] ^= 1
    path.write_bytes(content)
    refused(path, "not those that were written")


def test_a_foreign_bags_hash_is_of_its_content_alone(tmp_path: Path) -> None:
    one = foreign(tmp_path / "a.h5")
    first = content_sha256(read_header(one))

    def chunked(file: h5py.File) -> None:
        del file["features"]
        file.create_dataset("features", data=rows(), chunks=(1, 4), compression="gzip")

    assert content_sha256(read_header(foreign(tmp_path / "b.h5", chunked))) == first
    status = one.stat()
    foreign(one, _replaced("features", rows() + 1))
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert content_sha256(read_header(one)) != first


def test_a_storage_fault_is_tried_again_and_is_no_damage(
    tmp_path: Path, facts: BagFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bag.h5"
    write_bag(path, [rows()], YX, facts)
    faults, opened = [1], h5py.File

    def failing(*args: object, **kwargs: object) -> h5py.File:
        if faults[0]:
            faults[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return opened(*args, **kwargs)

    monkeypatch.setattr(hdf5, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(h5py, "File", failing)
    assert read_header(path).n_tiles == 3
    faults[0] = 2
    np.testing.assert_array_equal(feature_rows(path), rows().astype(np.float16))
    faults[0] = 3
    with pytest.raises(OSError, match=r"Input/output error \(3 attempts\)") as told:
        read_header(path)
    assert told.value.filename == str(path)
    assert not isinstance(told.value, BagError)


_MANY = """
import resource, sys
from pathlib import Path
import features.bags.bag, torch
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = [features.bags.bag.feature_rows(path) for path in sorted(Path(sys.argv[1]).glob("*.h5"))]
print(len(held), float(sum(rows.sum() for rows in held)))
"""


def test_more_bags_than_open_files_are_held(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 64
    for number in range(100):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["features"] = np.full((2, 3), number, np.float32)
    done = subprocess.run([sys.executable, "-c", _MANY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["100", str(6.0 * sum(range(100)))], done.stderr


_FULL = """
import resource, signal, sys
from pathlib import Path
from features.bags.stamp import export_stamp
from features.bags.options import StampOptions
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for outcome in export_stamp(StampOptions(bags=[Path(sys.argv[1])], out=Path(sys.argv[2]))).outcomes:
    print(outcome.item_id, outcome.status.value, outcome.reason)
"""


def test_a_failed_write_of_an_export_leaves_nothing(tmp_path: Path, facts: BagFacts) -> None:
    for name, n_tiles in (("large", 2000), ("small", 3)):
        write_bag(tmp_path / "in" / f"{name}.h5", [rows(n_tiles, 16)], np.arange(2 * n_tiles).reshape(-1, 2), facts)
    out = tmp_path / "out"
    command = [sys.executable, "-c", _FULL, str(tmp_path / "in"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "large failed" in done.stdout
    assert "cannot be written" in done.stdout
    assert "small done" in done.stdout
    assert [path.name for path in out.iterdir()] == ["small.h5"]
    again = export_stamp(StampOptions(bags=(tmp_path / "in",), out=out))
    assert [outcome.status for outcome in again.outcomes] == [Status.DONE, Status.SKIPPED]


def test_an_export_of_another_bag_is_not_taken_for_this_ones(tmp_path: Path, facts: BagFacts) -> None:
    write_bag(tmp_path / "bag.h5", [rows()], YX, facts)
    out = tmp_path / "out"
    assert export_stamp(StampOptions(bags=(tmp_path / "bag.h5",), out=out)).exit_code == 0
    write_bag(tmp_path / "bag.h5", [rows() + 1], YX, facts)
    assert "--overwrite" in export_stamp(StampOptions(bags=(tmp_path / "bag.h5",), out=out)).outcomes[0].reason
    assert export_stamp(StampOptions(bags=(tmp_path / "bag.h5",), out=out, overwrite=True)).exit_code == 0
    np.testing.assert_array_equal(read_features(out / "bag.h5"), (rows() + 1).astype(np.float16))


def test_a_value_too_large_for_the_export_is_told(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["features"][1, 2] = 7e4
        file.attrs["mpp"] = 0.5

    (outcome,) = export_stamp(StampOptions(bags=(foreign(tmp_path / "a.h5", change),), out=tmp_path / "out")).outcomes
    assert "feature 2 of tile 1" in outcome.reason
    assert "70000, beyond float16's 65504" in outcome.reason


@pytest.mark.parametrize("told", NO_PROVENANCE, ids=str)
def test_a_provenance_of_another_kind_is_refused(tmp_path: Path, told: dict[str, object]) -> None:
    path = foreign(tmp_path / "a_0.h5", lambda file: file.attrs.update(provenance=json.dumps(told)))
    with pytest.raises(BagError, match=r"a_0\.h5: its provenance is not as gigamil extract writes it"):
        read_header(path)


@pytest.mark.parametrize("told", [{}, {"encoder": None}, {"encoder": {"members": [{}], "tiles": None}, "versions": {}}])
def test_a_provenance_that_tells_less_is_read(tmp_path: Path, told: dict[str, object]) -> None:
    path = foreign(tmp_path / "a_0.h5", lambda file: file.attrs.update(provenance=json.dumps(told)))
    assert read_header(path).provenance == told
