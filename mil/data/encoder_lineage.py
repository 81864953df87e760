"""The leak rule of fine-tuned encoders: no fold may test patients whom the features' encoder has seen.

Such features make those patients look easier than new ones. An encoder that was fine-tuned with fold k held out can be
judged on fold k alone. So `gigamil train`, which tests every fold, takes features of encoders that saw none of its
patients (of published weights, or fine-tuned on others), or an encoder for each fold:

    gigamil finetune STORES -m train.csv --splits splits.csv --fold k --out k.safetensors    for each k
    gigamil extract STORES --encoder NAME --weights k.safetensors --out bags/k               for each k
    gigamil train bags/0 bags/1 ... --fusion folds --splits splits.csv
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from features.bags.bag import BagHeader
from features.encoders.lineage import Lineage, lineage_of
from wsi.arrays import Ints
from wsi.errors import RequestError
from wsi.recipe import canonical


def lineages(headers: Iterable[BagHeader]) -> list[Lineage]:
    """Return the different lineages of the bags' encoders; none where no encoder was fine-tuned.

    Raises
    ------
    RequestError
        A bag tells of a lineage that cannot be read.
    """
    found: dict[str, Lineage] = {}
    for header in headers:
        for values in _within(header.provenance.get("encoder")):
            found.setdefault(canonical(values), lineage_of(values, str(header.path)))
    return list(found.values())


def _within(encoder: Any) -> list[Mapping[str, Any]]:
    """Return every lineage in the encoder's entry: several encoders may stand side by side in it."""
    if isinstance(encoder, list):
        return [values for part in encoder for values in _within(part)]
    if not isinstance(encoder, dict):
        return []
    own = encoder.get("lineage")
    nested = [values for key, part in encoder.items() if key != "lineage" for values in _within(part)]
    return [*([own] if own is not None else []), *nested]


def check_unseen(
    headers: Iterable[BagHeader],
    patients: Sequence[str],
    folds: Ints,
    wanted: Iterable[int],
    image_ids: Sequence[str] = (),
) -> None:
    """Refuse to test patients whom the encoder of their features has seen.

    Parameters
    ----------
    headers
        Of the bags.
    patients
        The patient of each slide.
    folds
        (n,) int64: the fold that tests each slide.
    wanted
        The folds that are to be trained, and so tested.
    image_ids
        Of the slides: what an encoder remembers that was pretrained without a table of patients.

    Raises
    ------
    RequestError
        A patient of a wanted fold was seen; the message names the encoder's fold, how many, and what to do.
    """
    tested = sorted(set(wanted))
    for lineage in lineages(headers):
        for fold in tested:
            members = {patient for patient, own in zip(patients, folds.tolist(), strict=True) if own == fold}
            slides = dict(zip(image_ids, patients, strict=True)) if image_ids else {}
            seen = {*lineage.seen(members), *(slides[name] for name in lineage.seen(slides))} & members
            if seen:
                raise RequestError(
                    f"the encoder of these bags {_how(lineage)} and has seen {len(seen)} of the {len(members)} "
                    f"patients that fold {fold} tests: expected none; extract with an encoder that was trained on "
                    "other patients, or with published weights, or give each fold the bags of an encoder that held it "
                    "out (--fusion folds)"
                )


def _how(lineage: Lineage) -> str:
    if lineage.fold < 0:
        return "was trained with no fold held out"
    return f"was trained with its fold {lineage.fold} of {lineage.n_folds} held out"
