"""Whom the weights have seen that a training begins from: the leak rule at its start."""

from collections.abc import Set
from pathlib import Path

from features.encoders.lineage import read_lineage
from wsi.errors import RequestError


def seen_before(weights: Path | None, held_out: Set[str], fold: int) -> set[str]:
    """Return the sha256 of the patients that the weights have seen; refuse weights that have seen a held-out one.

    Parameters
    ----------
    weights
        A local file to begin from; None: published weights, or random ones.
    held_out
        Ids of the patients of ``fold``.

    Raises
    ------
    RequestError
        The weights have seen some of them.
    """
    before = read_lineage(weights) if weights else None
    if before is None:
        return set()
    leak = before.seen(held_out)
    if leak:
        raise RequestError(
            f"--weights {weights}: expected weights that have not seen the patients of fold {fold}, found "
            f"{len(leak)} of its {len(held_out)} among their training patients (they held out fold {before.fold}): "
            "begin from weights that held out the same fold"
        )
    return set(before.patients_sha256)
