"""What people drew, as it is shared: shapes and colours stay, words go unless they are asked for.

Objects get new ids. Names, notes, measurements and members that are not QuPath's are left out. Of classes stay QuPath's
own names; others get a number, the same on every slide, and stay ignored where they were.
"""

from dataclasses import replace
from pathlib import Path

from wsi.annotations.annotation import BETWEEN, IGNORED, KINDS, Annotation, new_id
from wsi.annotations.geojson import ENDINGS, feature_lines, read_annotations, write_geojson
from wsi.errors import RequestError

_CLASSES = frozenset(
    {"Tumor", "Stroma", "Immune cells", "Necrosis", "Other", "Region", "Ignore", "Positive", "Negative", "tissue"}
)
"""QuPath's own classes, and ours, without the mark of those that are ignored."""


class SharedAnnotations:
    """The annotations of a bundle's slides.

    Parameters
    ----------
    folder
        Of ``<image_id>.geojson`` and the like.
    texts
        Whether names, classes, notes and measurements stay as they are.
    """

    def __init__(self, folder: Path, *, texts: bool) -> None:
        if not folder.is_dir():
            raise RequestError(f"--annotations {folder}: expected a folder of <image_id>.geojson")
        self._folder, self._texts = folder, texts
        self._numbers: dict[str, int] = {}

    def write(self, image_id: str, target: Path) -> bool:
        """Write a slide's annotations as they are shared; False where there are none.

        Raises
        ------
        AnnotationError
            Its file cannot be read.
        """
        found = [path for ending in ENDINGS if (path := self._folder / f"{image_id}{ending}").is_file()]
        if not found:
            return False
        write_geojson(target, feature_lines(map(self._shared, read_annotations(found[0]))))
        return True

    def _shared(self, item: Annotation) -> Annotation:
        children = tuple(map(self._shared, item.children))
        if self._texts:
            return replace(item, id=new_id(), children=children, extra={})
        return Annotation(
            geometry=item.geometry,
            kind=item.kind if item.kind in KINDS else "annotation",
            class_name=self._class(item),
            class_color=item.class_color,
            color=item.color,
            locked=item.locked,
            children=children,
        )

    def _class(self, item: Annotation) -> str | None:
        if not item.class_name:
            return None
        return BETWEEN.join(map(self._part, (part.strip() for part in item.class_name.split(":"))))

    def _part(self, name: str) -> str:
        plain = name.rstrip(IGNORED)
        if plain in _CLASSES:
            return name
        number = self._numbers.setdefault(plain.casefold(), len(self._numbers) + 1)
        return f"Class {number}{IGNORED if name.endswith(IGNORED) else ''}"
