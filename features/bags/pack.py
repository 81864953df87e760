"""Many bags in one file, for file systems that count files: HDF5 with a group for each slide, which holds its bag.

A pack is read wherever a folder of bags is: its bags' paths go on below its own (`features.bags.hdf5.file_of`). It is
written whole or not at all, and taken apart again into the same bags.
"""

import time
from pathlib import Path
from typing import Any

from features.bags.bag import (
    MOMENTS,
    PACK_FORMAT,
    BagHeader,
    content_sha256,
    feature_rows,
    find_bags,
    is_pack,
    read_header,
)
from features.bags.forms import open_bag
from features.bags.hdf5 import Attributes, read_hdf5, writing_hdf5
from features.bags.options import PackOptions
from wsi.errors import BagError, RequestError
from wsi.files.atomic import check_folder
from wsi.files.hdf5 import attributes_of
from wsi.files.replace import refuse_input
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash


def pack_bags(options: PackOptions, progress: Progress | None = None) -> Summary:
    """Write all bags into one file, or with ``unpack`` the bags of packs as files into a folder.

    A bag that is damaged FAILED and is left out. A pack of the same bags is SKIPPED, and so is a bag that is there.

    Raises
    ------
    RequestError
        No bag is found; or a pack of other bags, or another file, is at ``out``.
    BagError
        The pack cannot be written (the disk is full).
    """
    start, progress = time.perf_counter(), progress or Silent()
    paths = find_bags(options.bags)
    progress.begin("unpack" if options.unpack else "pack", len(paths), "bags")
    work = _unpacked if options.unpack else _packed
    outcomes = work(paths, options, progress)
    progress.end()
    return Summary("pack", outcomes, time.perf_counter() - start)


def _packed(paths: list[Path], options: PackOptions, progress: Progress) -> list[Outcome]:
    if options.out.suffix != ".h5" or options.out.is_dir():
        raise RequestError(f"--out {options.out}: expected the name of a file that ends in .h5")
    refuse_input(options.out, options.bags)
    sound, outcomes = [], []
    for path in paths:
        try:
            header = read_header(path)
            feature_rows(path)
            sound.append(header)
        except (BagError, OSError) as error:
            outcomes.append(Outcome(path.stem, Status.FAILED, str(error)))
    if not sound:
        raise RequestError(f"no bag can be packed: {outcomes[0].reason}")
    contents = _contents(sound)
    if options.out.exists() and not options.overwrite:
        _check_is_of(options.out, contents)
        return [*outcomes, *(Outcome(own.path.stem, Status.SKIPPED, "the pack holds it") for own in sound)]
    with writing_hdf5(options.out, is_pack) as file:
        file.attrs.update({"format": PACK_FORMAT, "contents": contents})
        for header in sound:
            _copy(header, file.create_group(header.path.stem))
            outcomes.append(Outcome(header.path.stem, Status.DONE))
            progress.advance(1)
    return outcomes


def _contents(headers: list[BagHeader]) -> str:
    """Return one hash of which bags these are."""
    return recipe_hash({own.path.stem: [own.image_id, own.recipe_hash, content_sha256(own)] for own in headers})


def _check_is_of(pack: Path, contents: str) -> None:
    if not is_pack(pack) or read_hdf5(pack, lambda file: Attributes(file, pack).text("contents")) != contents:
        raise RequestError(f"{pack} is there and is not the pack of these bags: choose another --out, or --overwrite")


def _copy(header: BagHeader, group: Any) -> None:
    """Copy what makes a bag, as it is stored: attributes, features, coordinates, moments."""

    def copy(file: Any) -> None:
        bag = open_bag(file, header.path)
        names = {bag.features.name, bag.coords.name if bag.coords is not None else ""}
        names |= {f"{file.name}/{MOMENTS}"} if header.moments is not None else set()
        for name in sorted(own.rpartition("/")[2] for own in names if own):
            file.copy(name, group)
        for name, value in attributes_of(file).items():
            group.attrs[name] = value

    read_hdf5(header.path, copy)


def _unpacked(paths: list[Path], options: PackOptions, progress: Progress) -> list[Outcome]:
    refuse_input(options.out, options.bags)
    check_folder(options.out)
    outcomes = []
    for path in paths:
        outcomes.append(_one_unpacked(path, options))
        progress.advance(1)
    return outcomes


def _one_unpacked(path: Path, options: PackOptions) -> Outcome:
    target = options.out / path.name
    try:
        header = read_header(path)
        feature_rows(path)
        if target.exists() and not options.overwrite:
            if content_sha256(read_header(target)) != content_sha256(header):
                raise BagError(f"{target} is there and is not this bag: choose another --out, or give --overwrite")
            return Outcome(path.stem, Status.SKIPPED, "the bag is there")
        with writing_hdf5(target) as file:
            _copy(header, file)
    except (BagError, OSError) as error:
        return Outcome(path.stem, Status.FAILED, str(error))
    return Outcome(path.stem, Status.DONE)
