"""Tables that a verb writes: never in the place of what somebody else wrote, and skipped only when whole.

Beside the tables stands a JSON file with our mark, the recipe, and the sha256 of each table.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.documents import parse_json, read_document
from wsi.files.regular import file_sha256
from wsi.progress.outcome import Outcome, Status
from wsi.recipe import Json, Recipe, refuse_other_recipe


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
        sums = found["sha256"]
        known = [path for path in self.files if self._name(path) in sums and path.exists()]
        changed = [path for path in known if file_sha256(path) != sums[self._name(path)]]
        if changed and not overwrite:
            raise RequestError(
                f"{changed[0]} was changed since it was written: choose another --out, or give --overwrite to replace "
                "it"
            )
        return found if not changed and len(known) == len(self.files) else None

    @property
    def skipped(self) -> Outcome:
        """Return the outcome of an output that is there."""
        return Outcome(str(self.files[0]), Status.SKIPPED, "the table is there, made from the same run and bags")

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
        """Write the JSON file, then the tables that it vouches for: without it they could not be told from others'."""
        self.vouch(recipe, about, {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()})
        for path, text in texts.items():
            write_text(path, text)

    def vouch(self, recipe: Recipe, about: Json, sums: Mapping[Path, str]) -> None:
        """Write the JSON file; a file that it has no sum of is one that a stopped command was writing."""
        named = {self._name(path): own for path, own in sums.items()}
        content = {"format": self.mark, "recipe": recipe, "sha256": named, **about}
        write_text(self.about, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.about.parent).as_posix()
