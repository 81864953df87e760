"""Whether the file was rehearsed: a small file that `gigamil rehearse` leaves in the cohort's folder.

``rehearsal.json`` holds ``content_hash`` (`CohortFile.content_hash` of what was rehearsed), ``passed`` (true or false)
and ``why`` (one line, where it was not).
"""

from pathlib import Path

from mil.pipeline.cohort.cohort_file import CohortFile
from wsi.errors import RequestError, one_line
from wsi.files.documents import parse_json, read_document

REHEARSAL = "rehearsal.json"


def why_not_rehearsed(file: CohortFile) -> str:
    """Return what is wrong with the rehearsal of a cohort file, in one line; "" where it was passed."""
    path: Path = file.folder / REHEARSAL
    if not path.exists():
        return f"not rehearsed: `gigamil rehearse {file.path}` tries a small share first"
    try:
        found = parse_json(read_document(path, RequestError))
        content_hash, passed = found["content_hash"], found["passed"]
    except (ValueError, KeyError, TypeError):
        return f"{path}: the rehearsal cannot be read: `gigamil rehearse {file.path}` makes it anew"
    if content_hash != file.content_hash:
        return f"rehearsed with other settings: `gigamil rehearse {file.path}` tries those of today"
    if passed is not True:
        return f"its rehearsal was not passed ({one_line(found.get('why') or 'no reason told', 300)})"
    return ""


def check_rehearsal(file: CohortFile) -> None:
    """Raise `RequestError` unless the file was rehearsed, and soundly."""
    if why := why_not_rehearsed(file):
        raise RequestError(f"{file.path}: {why}: --require-rehearsal wants one that passed")
