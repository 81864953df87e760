"""What the classifier of tiles can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.option_groups import Above0, Claims, Count, Manifest, Overwriting
from wsi.options import Option, at_least, check


@dataclass(frozen=True, kw_only=True)
class ClassifyTilesOptions(Manifest, Overwriting, Claims):
    """Options of `mil.tiles.classify.classify_tiles`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS...")]
    """Bags (.h5), or folders of them: those of annotated slides are learnt from, and all are scored."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Folder to make: classifier.json, and a table of scores for each slide."""
    annotations: Path | None = None
    """Folder with <image id>.geojson of slides to learn from, as QuPath or `gigamil view` writes them."""
    annotation_class: tuple[str, ...] = ()
    """Learn only this class; otherwise all but those that QuPath ignores (*)."""
    rest: str | None = None
    """Of slides that are annotated throughout: class of the tiles in no region; otherwise they are left out."""
    classifier: Path | None = None
    """A classifier.json, to score with it, in place of --annotations."""
    folds: Annotated[int, at_least(2)] = 5
    """Parts of the patients, each judged by a model that has not seen it."""
    most_tiles: Count = 500
    """Tiles of one class and slide that are learnt from at most, drawn at random."""
    c: Annotated[Above0, Option(name="C")] = 1.0
    """Of the logistic regression: the smaller, the smoother (scikit-learn's C)."""
    seed: int = 0
    """Of folds and draws."""
    geojson: bool = False
    """Write the scores as QuPath's tile objects, too (.geojson.gz)."""

    def __post_init__(self) -> None:
        check(self)
        if (self.annotations is None) == (self.classifier is None):
            raise RequestError("give either --annotations, to learn from, or --classifier, to score with")
        if self.annotations is not None and not self.annotations.is_dir():
            raise RequestError(f"--annotations {self.annotations}: expected a folder of <image id>.geojson")
