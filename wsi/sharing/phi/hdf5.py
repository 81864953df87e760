"""What an HDF5 file says: names of groups, datasets and attributes, attributes' values, datasets of texts."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import h5py
import numpy as np

from wsi.sharing.phi.texts import Found, Place, binary_text

_MOST_TEXTS = 1_000_000


def places(file: BinaryIO, name: str) -> Found:
    """Yield the texts of an HDF5 file. Links to other files are not followed; their names are texts."""
    with h5py.File(file, "r") as opened:
        yield from _of_group(opened, "")


def _of_group(group: Any, path: str) -> Found:
    yield from _attributes(group, path or "/")
    for name in group:
        where = f"{path}/{name}"
        yield Place(f"name {where}", name)
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            yield Place(f"link {where}", f"{getattr(link, 'filename', '')}\n{getattr(link, 'path', '')}")
            continue
        own = group[name]
        if isinstance(own, h5py.Group):
            yield from _of_group(own, where)
        elif isinstance(own, h5py.Dataset):
            yield from _attributes(own, where)
            if own.dtype.kind in "OSUV" and own.size <= _MOST_TEXTS:
                yield from (Place(f"dataset {where}", text) for text in _texts(own[()]))


def _attributes(own: Any, path: str) -> Found:
    for name, value in own.attrs.items():
        where = f"attribute {name} of {path}"
        yield Place(f"name of {where}", name)
        is_json = isinstance(value, str) and value[:1] in ("{", "[")
        yield from (Place(where, text, json=is_json) for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Yield what can be read in a value of any kind."""
    if isinstance(value, bytes | np.bytes_ | np.void):
        yield binary_text(value if isinstance(value, bytes) else value.tobytes())
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "OSU":
            for own in value.ravel().tolist():
                yield from _texts(own)
        elif value.dtype.kind == "V":
            yield binary_text(value.tobytes())
    elif isinstance(value, str | int | np.integer):
        yield str(value)
