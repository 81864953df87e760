"""Pages of stores without a run: nobody says anything of the slides, and the cohort's table shows their quality."""

from collections.abc import Mapping, Sequence

from wsi.pages import plural
from wsi.qc.rows import COLUMNS, Column
from wsi.qc.sheet import mark_odd, oddest_first, read_row
from wsi.recipe import Json, Recipe
from wsi.store.tile_store import TileStore
from wsi.viewing.documents import cohort_document, cohort_row, column

_TITLES = {column.key: column.title for column in COLUMNS}


class StoresAlone:
    """A `wsi.viewing.pages.folder.Speaker` without a word."""

    def __init__(self, stores: Sequence[TileStore]) -> None:
        self._stores = stores

    def recipe(self, store: TileStore) -> Recipe | None:
        """Nothing shapes what nobody says."""
        return None

    def speak(self, store: TileStore, document: Json) -> tuple[Json, Json]:
        """Return the document as it is."""
        return document, {}

    def cohort(self, rows: Mapping[str, Json]) -> Json:
        """Return the cohort's document: quality numbers, what is odd or warned of first."""
        found = oddest_first(mark_odd([read_row(store) for store in self._stores if store.image_id in rows]))
        slides = []
        for row in found:
            odd = ", ".join(_TITLES[key].split(",")[0] for key in row.odd)
            slides.append(
                cohort_row(row.image_id, None, {"odd": odd or None, "warnings": len(row.warnings), **row.numbers})
            )
        shown = [own for own in COLUMNS if any(row.numbers[own.key] is not None for row in found)]
        columns = [column("odd", "Odd", "text"), column("warnings", "Warnings", "number"), *map(_column, shown)]
        said = f"{plural(len(slides), 'slide')}. What stands far from the others, or is warned of, comes first."
        return cohort_document("Slides", said, columns, slides)


def _column(own: Column) -> Json:
    return column(own.key, own.title, "number")
