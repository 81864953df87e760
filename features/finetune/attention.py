"""Tiles chosen by the attention of a previous run: the table that `gigamil heatmap` writes, or one of the same form."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wsi.arrays import Ints
from wsi.errors import RequestError, one_line
from wsi.files.csv_table import read_records
from wsi.store.tile_store import TileStore

Attention = dict[tuple[int, int], float]
"""Tile row and column -> attention."""
COLUMNS = ("tile_row", "tile_column", "attention")


class AttentionTables:
    """Attention per tile of many slides.

    A folder holds ``<image_id>.csv`` for each slide; a single file has a column image_id, too. Columns tile_row,
    tile_column and attention are needed, others are ignored. The models behind the attention of a training slide may
    have learned from the held-out patients' labels; it decides which tiles are drawn, and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise RequestError(f"--attention {path}: expected a folder of gigamil heatmap or a table, found nothing")
        self._tables = None if path.is_dir() else _by_slide(path)

    def best(self, store: TileStore, share: float) -> Ints:
        """Return the positions in the store's tile list of the best ``share`` by attention, ascending; at least one.

        Ties go to the earlier tile.

        Raises
        ------
        RequestError
            The slide is not in the table, or one of its tiles is not.
        """
        scores = self._of(store.image_id)
        missing = [tuple(yx) for yx in store.tiles_yx.tolist() if tuple(yx) not in scores]
        if missing:
            raise RequestError(
                f"--attention {self._path}: expected every tile of slide {store.image_id}, found no attention for "
                f"{len(missing)} of {store.n_tiles}, first {missing[0]}: draw the heat maps of these very stores"
            )
        values = np.array([scores[(row, column)] for row, column in store.tiles_yx.tolist()])
        count = max(1, int(np.ceil(share * len(values))))
        return np.sort(np.argsort(-values, kind="stable")[:count]).astype(np.int64)

    def _of(self, image_id: str) -> Attention:
        if self._tables is not None:
            found: Attention | None = self._tables.get(image_id)
        else:
            file = self._path / f"{image_id}.csv"
            found = _scores(file, None)[""] if file.is_file() else None
        if found is None:
            raise RequestError(f"--attention {self._path}: expected slide {image_id}, found no attention for it")
        return found


def _by_slide(path: Path) -> dict[str, Attention]:
    return _scores(path, "image_id")


def _scores(path: Path, key: str | None) -> dict[str, Attention]:
    tables: dict[str, Attention] = {}
    try:
        for record in read_records(path):
            value = float(record["attention"])
            if not np.isfinite(value):
                raise ValueError(f"attention {value}")
            place = (int(record["tile_row"]), int(record["tile_column"]))
            tables.setdefault(record[key] if key else "", {})[place] = value
    except RequestError:
        raise
    except (KeyError, ValueError) as error:
        wanted = ", ".join(((key,) if key else ()) + COLUMNS)
        found = one_line(repr(error), 200)
        raise RequestError(f"--attention {path}: expected a table with {wanted}, found {found}") from None
    return tables if key else {"": tables.get("", {})}


def choice_digest(chosen: Mapping[str, Ints]) -> str:
    """Return one hash of which tiles of which slides were chosen."""
    digest = hashlib.sha256()
    for image_id, tiles in sorted(chosen.items()):
        digest.update(f"{image_id} {len(tiles)}\n".encode())
        digest.update(np.ascontiguousarray(tiles, dtype=np.int64).data)
    return digest.hexdigest()
