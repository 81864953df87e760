"""One store's files, wherever they lie: what every place that holds a store can do."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Location = Path | str
"""A path, or a URL such as ``s3://bucket/a.zarr``."""
Bytes = bytes | memoryview
Options = Mapping[str, Any]
"""What the file system behind a URL wants beside it, as fsspec's ``storage_options``: endpoint_url, key, secret."""


class Folder(Protocol):
    """One store's files, by key: the path inside the store, with ``/``. Picklable; opens nothing before it is asked."""

    location: Location

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return whole files, None for those that are not there.

        Raises `StoreError` where one is no regular file or too large, `OSError` where the storage fails.
        """

    def chunks(self, wanted: Sequence[tuple[str, int]], n_chunks: int) -> list[Bytes | None]:
        """Return compressed chunks, each given by its shard's key and its place in the shard; None where absent.

        Quickest where ``wanted`` is sorted. Raises `StoreError` where a shard is damaged.
        """

    def index(self, key: str, n_chunks: int) -> NDArray[np.uint64] | None:
        """Return a shard's index, uint64 (n_chunks, 2) of offset and size; None where there is no such shard."""

    def array(self, key: str) -> Any:
        """Return a zarr-python array for reading; `StoreError` where there is none."""

    def find(self, key: str) -> list[str]:
        """Return the keys of all files below a key, sorted."""
