"""Tables that a verb writes: never in the place of what somebody else wrote, and skipped only when whole.

Beside the tables stands a JSON file with our mark, the recipe, and the sha256 of each table.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi.atomic import write_text
from wsi.documents import parse_json, read_document
from wsi.errors import RequestError
from wsi.recipe import Recipe, refuse_other_recipe

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """The files of one output."""

    about: Path
    """The JSON file."""
    files: tuple[Path, ...]
    mark: str
    """Its ``format``: by which verb it was written."""

    def earlier(self, recipe: Recipe, *, overwrite: bool) -> Json | None:
        """Return what the JSON file of a whole output of the same recipe tells; None where all is to be written.

        Raises
        ------
        RequestError
            A file is there that this verb did not write, or that was changed since, and ``overwrite`` is not given.
        RecipeMismatchError
            The output was made with other settings, and ``overwrite`` is not given.
        """
        found = self.told()
        there = [path for path in (self.about, *self.files) if path.exists()]
        if found is None:
            if there and not overwrite:
                raise RequestError(
                    f"{there[0]} is there and was not written by this command: choose another --out, or give "
                    "--overwrite to replace it"
                )
            return None
        if found["recipe"] != recipe:
            if not overwrite:
                refuse_other_recipe(self.files[0], found["recipe"], recipe)
            return None
        changed = [path for path in self.files if path.exists() and _sum(path) != found["sha256"].get(path.name)]
        if changed and not overwrite:
            raise RequestError(
                f"{changed[0]} was changed since it was written: choose another --out, or give --overwrite to replace "
                "it"
            )
        return found if not changed and all(path.exists() for path in self.files) else None

    def told(self) -> Json | None:
        """Return the JSON file where it is one of this verb's."""
        try:
            found = parse_json(read_document(self.about, RequestError))
        except ValueError:  # a RequestError of what the name leads to is one, too
            return None
        ours = isinstance(found, dict) and found.get("format") == self.mark
        parts = ("recipe", "sha256")
        return found if ours and all(isinstance(found.get(part), dict) for part in parts) else None

    def write(self, recipe: Recipe, texts: Mapping[Path, str], about: Json) -> None:
        """Write the tables, then the JSON file that vouches for them."""
        for path, text in texts.items():
            write_text(path, text)
        sums = {path.name: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
        content = {"format": self.mark, "recipe": recipe, "sha256": sums, **about}
        write_text(self.about, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
