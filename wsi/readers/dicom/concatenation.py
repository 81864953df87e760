"""A DICOM image in several files, each with some of its frames: a concatenation (PS3.3 C.7.6.16.2.2.4)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from wsi.errors import UnreadableSlideError
from wsi.readers.dicom.layout import ConcatenationPart, DicomInstance


def joined(parts: Sequence[DicomInstance]) -> DicomInstance:
    """Put the files of one concatenation together.

    Raises
    ------
    UnreadableSlideError
        A part is missing, lies there twice, or is of another image.
    """
    parts = sorted(parts, key=lambda own: _told(own).number)
    _check_parts(parts)
    frames = list[int | None]([None] * len(parts[0].frames))
    before = 0
    for own in parts:
        for place, frame in enumerate(own.frames):
            if frame is not None and frames[place] is not None:
                raise UnreadableSlideError(f"two parts of a concatenation have a frame at place {place}: focal planes?")
            frames[place] = frames[place] if frame is None else before + frame
        before += len(own.spans)
    if None in frames and _told(parts[0]).in_full:
        raise UnreadableSlideError(f"{_in_words(parts)}, which lack {frames.count(None)} frames: copy all of its files")
    spans = [tuple((i, *piece[1:]) for piece in span) for i, own in enumerate(parts) for span in own.spans]
    paths = tuple(path for own in parts for path in own.paths)
    return replace(parts[0], paths=paths, frames=tuple(frames), spans=tuple(spans), part=None)


def _check_parts(parts: Sequence[DicomInstance]) -> None:
    for one, other in pairwise(parts):
        if _told(one).number == _told(other).number:
            names = f"{one.paths[0].name}, {other.paths[0].name}"
            raise UnreadableSlideError(
                f"part {_told(one).number} of a concatenation lies there twice ({names}): keep one"
            )
    numbers = [_told(own).number for own in parts]
    if numbers != list(range(1, len(parts) + 1)) or any(_told(own).total > len(parts) for own in parts):
        raise UnreadableSlideError(f"{_in_words(parts)}: copy all of its files")
    forms = {(p.shape, p.tile, p.transfer_syntax, p.photometric, p.samples, p.planar, _told(p).in_full) for p in parts}
    firsts = [0, *accumulate(len(own.spans) for own in parts)]
    if len(forms) > 1 or any(_told(own).first != first for own, first in zip(parts, firsts, strict=False)):
        raise UnreadableSlideError("the parts of a concatenation differ in size or coding, or their frames in number")


def _told(instance: DicomInstance) -> ConcatenationPart:
    assert instance.part is not None
    return instance.part


def _in_words(parts: Sequence[DicomInstance]) -> str:
    told = max(_told(own).total for own in parts)
    of = f" of {told}" if told else ""
    return f"of a concatenation there are parts {', '.join(str(_told(own).number) for own in parts[:9])}{of}"
