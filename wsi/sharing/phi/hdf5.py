"""What an HDF5 file says: names of groups, datasets and attributes, attributes' values, datasets of texts."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import h5py
import numpy as np

from wsi.files.hdf5 import attributes_of, heap_contents, open_hdf5
from wsi.sharing.phi.texts import MOST_UNPACKED, Found, Place, binary_text

_MOST_TEXTS = 1_000_000


def places(file: BinaryIO, name: str) -> Found:
    """Yield the texts of an HDF5 file. Links to other files are not followed; their names are texts."""
    apart = set[str]()
    with open_hdf5(file) as opened:
        yield from _of_group(opened, "", file, apart)
    if apart:
        yield from (Place(f"texts of {min(apart)}", binary_text(text)) for text in heap_contents(file))


def _of_group(group: Any, path: str, file: BinaryIO, apart: set[str]) -> Found:
    """Yield the texts of a group, and what is below; datasets whose texts lie in the file's heaps join ``apart``."""
    yield from _attributes(group, path or "/", file)
    for name in group:
        where = f"{path}/{name}"
        yield Place(f"name {where}", name)
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            yield Place(f"link {where}", f"{getattr(link, 'filename', '')}\n{getattr(link, 'path', '')}")
            continue
        own = group[name]
        if isinstance(own, h5py.Group):
            yield from _of_group(own, where, file, apart)
        elif isinstance(own, h5py.Dataset):
            yield from _attributes(own, where, file)
            elsewhere = [one[0] for one in own.external or ()]
            elsewhere += [one.file_name for one in own.virtual_sources()] if own.is_virtual else []
            yield from (Place(f"link {where}", name) for name in elsewhere)
            if own.dtype.hasobject:  # HDF5 would believe any length
                apart.add(where)
            elif own.dtype.kind in "SV" and own.size <= _MOST_TEXTS and _is_here(own):
                yield from (Place(f"dataset {where}", text) for text in _texts(own[()]))


def _is_here(own: Any) -> bool:
    """Tell whether a dataset's values lie in the file, and are not too many to be held."""
    return not own.is_virtual and not own.external and own.nbytes <= MOST_UNPACKED


def _attributes(own: Any, path: str, file: BinaryIO) -> Found:
    for name, value in attributes_of(own, file).items():
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
