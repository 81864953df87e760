"""`gigamil view`: stores, slides and a run in a browser, from a server on this machine."""

import json as json_module
import os
import sys
import webbrowser
from pathlib import Path
from threading import Thread

from mil.viewing.items import Items, sort_items
from mil.viewing.view_options import ViewOptions
from wsi.errors import RequestError, masked
from wsi.files.atomic import make_folder, write_text
from wsi.files.claim import claim
from wsi.files.regular import first_bytes
from wsi.options import stage
from wsi.pages import plural
from wsi.store.folder import Location
from wsi.viewing import frontend
from wsi.viewing.collection import Collection, Reading, Shown, find_shown, patients_of
from wsi.viewing.judgements import NAME, JudgementFile
from wsi.viewing.review import HEADER, Opinions, Review
from wsi.viewing.served import Served
from wsi.viewing.server.access import Access, new_token
from wsi.viewing.server.serve import Listening, serve


@stage
def view(options: ViewOptions, json: bool) -> int:
    """Serve until Ctrl-C, or write the table of judgements; return 0.

    Raises
    ------
    RequestError
        There is nothing to show, the address cannot be listened on, or the front end was not installed.
    """
    items = sort_items(options.items)
    if options.annotations:
        make_folder(options.annotations, "--annotations")
    shown = find_shown(items.stores, items.slides, options.annotations)
    opinions = _opinions(options, items, shown)
    review = _review(options, items, shown, opinions)
    if options.export_judgements:
        return _export(review, options.export_judgements)
    frontend.assets()  # where they are missing: before anybody opens a page
    served = Served(Collection(shown, _reading(options)), review, _title(items))
    access = Access(options.host, None, tuple(own.rstrip("/") for own in options.cors))
    if options.token or not access.is_local:
        access = Access(options.host, new_token(), access.cors)
    serve(served, access, options.port, lambda listening: _tell(listening, options, len(shown), json))
    sys.stderr.write("gigamil view: stopped\n")
    return 0


def _reading(options: ViewOptions) -> Reading:
    return Reading(options.assume_mpp, options.reader, options.scene)


def _opinions(options: ViewOptions, items: Items, shown: list[Shown]) -> Opinions | None:
    if len(items.runs) > 1:
        raise RequestError(f"expected one run, found {', '.join(map(str, items.runs))}: give one of them")
    if not items.runs:
        if options.blind:
            raise RequestError("--blind hides what a run says: give a run, too")
        return None
    from mil.viewing.opinions import opinions_of  # stores alone want no models

    return opinions_of(items.runs[0], items, [own.store for own in shown if own.store])


def _review(options: ViewOptions, items: Items, shown: list[Shown], opinions: Opinions | None) -> Review:
    patients = patients_of((own.image_id for own in shown), opinions.rows if opinions else {})
    folder = options.annotations or _folder(items)
    file = JudgementFile(folder / NAME) if folder and os.access(folder, os.W_OK) else None
    review = Review(patients, file, opinions, blind=options.blind)
    if file and (torn := file.torn()):
        line = f"{file.path}: {torn} judgement{'s were' if torn > 1 else ' was'} cut short by a crash and left out"
        sys.stderr.write(f"gigamil view: {line}\n")
    return review


def _folder(items: Items) -> Path | None:
    """Return where judgements are kept: beside the run, else the stores, else the slides."""
    if items.runs:
        return items.runs[0]
    places: list[Location] = [*items.stores, *items.slides]
    first = places[0]
    if isinstance(first, str):
        return None
    return first.parent if first in items.stores or not first.is_dir() else first


def _title(items: Items) -> str:
    place = items.runs[0] if items.runs else [*items.stores, *items.slides][0]
    return Path(str(place)).resolve().name if items.runs else "Slides"


def _export(review: Review, out: Path) -> int:
    if review.file is None or not review.file.path.exists():
        raise RequestError("nothing was judged yet: open the slides with `gigamil view`, and judge some")
    with claim(out):
        write_text(out, review.manifest(), _is_ours)
    sys.stderr.write(f"gigamil view: {out} written, from {review.file.path}\n")
    return 0


def _is_ours(path: Path) -> bool:
    return first_bytes(path, 200).startswith(",".join(HEADER).encode())


def _tell(listening: Listening, options: ViewOptions, slides: int, json: bool) -> None:
    told = {"url": listening.url, "host": listening.host, "port": listening.port, "slides": slides}
    if json:
        sys.stdout.write(json_module.dumps(told) + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(f"gigamil view: {plural(slides, 'slide')} at {masked(listening.url)}   (Ctrl-C ends)\n")
    if options.open:
        Thread(target=webbrowser.open, args=(listening.url,), daemon=True).start()
