"""Bags of another scale than everybody's: features are standardised over all bags, so that one spoils all."""

from collections.abc import Mapping

import numpy as np

from features.bags.bag import BagHeader
from wsi.pages import plural

FAR = 100.0
"""Times the middle bag's features, or the share of them, from which on a bag's are told: encoders differ less."""


def note_scales(headers: Mapping[str, BagHeader]) -> list[str]:
    """Return a note where the root mean square of a bag's features is far from that of the middle bag."""
    known = {i: own.moments for i, own in headers.items() if own.moments is not None and own.n_tiles}
    sizes = {i: float(np.sqrt(own.spread_around(np.zeros(len(own.sum_D))).mean())) for i, own in known.items()}
    usual = float(np.median([*sizes.values()])) if sizes else 0.0
    far = {i: own / usual for i, own in sizes.items() if usual and not 1 / FAR < own / usual < FAR}
    if not far:
        return []
    shown = ", ".join(f"{i} {ratio:.2g} times the usual" for i, ratio in [*far.items()][:5])
    line = (
        f"{plural(len(far), 'slide', verb='have')} features of another scale than the others ({shown}"
        f"{', ...' if len(far) > 5 else ''}), and features are standardised over all slides: look at them, or leave "
        "them out"
    )
    return [line]
