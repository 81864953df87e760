"""Bags of another scale than everybody's: features are standardised over all bags, so that one spoils all."""

from collections.abc import Mapping

import numpy as np

from features.bags.bag import BagHeader
from wsi.pages import plural

FAR = 7.0
"""Times the middle bag's features, or the share of them, from which on a bag's may be told."""
SPREADS = 10.0
"""So many times the spread of the logarithms (by the median of their distances from the middle) it must be, too: rare
features of few tiles, and formulas with heavy tails, differ by more than seven times. docs/EVIDENCE.md has both."""
_OF_NORMAL = 1.4826
"""Standard deviations that the median distance from the middle is, of normally distributed ones."""


def note_scales(headers: Mapping[str, BagHeader]) -> list[str]:
    """Return a note where the root mean square of a bag's features is far from that of the middle bag."""
    known = {i: own.moments for i, own in headers.items() if own.moments is not None and own.n_tiles}
    sizes = {i: float(np.sqrt(own.spread_around(np.zeros(len(own.sum_D))).mean())) for i, own in known.items()}
    usual = float(np.median([*sizes.values()])) if sizes else 0.0
    if not usual:
        return []
    off = {i: abs(float(np.log(own / usual))) if own else np.inf for i, own in sizes.items()}
    least = max(float(np.log(FAR)), SPREADS * _OF_NORMAL * float(np.median([*off.values()])))
    far = {i: sizes[i] / usual for i, own in off.items() if own > least}
    if not far:
        return []
    shown = ", ".join(f"{i} {ratio:.2g} times the usual" for i, ratio in [*far.items()][:5])
    line = (
        f"{plural(len(far), 'slide', verb='have')} features of another scale than the others ({shown}"
        f"{', ...' if len(far) > 5 else ''}), and features are standardised over all slides: look at them, or leave "
        "them out"
    )
    return [line]
