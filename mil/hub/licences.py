"""What may be shared under which licence: of an encoder's weights, of what was trained from them, of their features.

Strict: only what a licence is known to allow. A licence that forbids derivatives (ND), one of an institute's own, and
one that is not told allow nothing; who has a permission for features or for models trained on them can name it. Weights
behind a gate do not go up whatever their licence: the gate's terms are between each account and the authors.
"""

from dataclasses import dataclass
from typing import Literal

from features.encoders.presets import PRESETS
from features.slide_encoders.presets import SLIDE_PRESETS
from wsi.errors import RequestError

Kind = Literal["run", "bags", "weights"]
OPEN = {
    "mit": "mit",
    "mit (part of this software)": "mit",
    "apache-2.0": "apache-2.0",
    "bsd-2-clause": "bsd-2-clause",
    "bsd-3-clause": "bsd-3-clause",
    "cc0-1.0": "cc0-1.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "gpl-3.0": "gpl-3.0",
}
"""Licences that allow to share what is made of a work, by our names: the hub's name."""
BINDING = ("gpl-3.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-4.0")
"""Those that what is made of a work keeps, the strictest first."""


@dataclass(frozen=True, slots=True)
class Source:
    """An encoder that something was made with."""

    name: str
    licence: str
    """As `EncoderSpec.licence`; several with ``;`` between them."""

    @property
    def licences(self) -> list[str]:
        """Return its licences one by one."""
        return [own.strip() for own in self.licence.split(";") if own.strip()]

    @property
    def gated(self) -> bool:
        """Tell whether its weights are behind a gate; what is not known here counts as free."""
        names = self.name.replace("@", "+").split("+")
        presets = [PRESETS.get(own) or SLIDE_PRESETS.get(own) for own in names]
        return any(own.gated for own in presets if own is not None)


def checked(kind: Kind, sources: list[Source], own: str, permission: str) -> str:
    """Return the licence, as the hub names it, under which something may be shared; or refuse it.

    Parameters
    ----------
    kind
        What is shared.
    sources
        Encoders whose weights it is, was trained from, or was computed with.
    own
        The licence that the user wants; empty: that which the sources ask for, else ``other``.
    permission
        Who allowed what a licence does not; does not count for weights.

    Raises
    ------
    RequestError
        A licence does not allow it; the message names the encoder and the licence.
    """
    if not sources and not (own if kind == "weights" else own or permission):
        raise RequestError(
            f"{kind}: expected the encoder and licence that they come from, found none told: if they are yours to "
            "share, say --licence NAME"
        )
    for source in sources:
        _check(kind, source, permission)
    asked = {OPEN[known] for source in sources for known in map(str.lower, source.licences) if known in OPEN}
    bound = next((name for name in BINDING if name in asked), "")
    if bound and own and own != bound:
        raise RequestError(f"--licence {own}: it was made with an encoder under {bound}, which asks to keep that")
    return own or bound or "other"


def _check(kind: Kind, source: Source, permission: str) -> None:
    closed = [own for own in source.licences or ["no licence told"] if own.lower() not in OPEN]
    if kind == "weights":
        if closed:
            raise RequestError(f"weights of {source.name} are not shared: its licence ({closed[0]}) does not allow it")
        if source.gated:
            raise RequestError(
                f"weights of {source.name} are not shared: its authors give them only to accounts that accepted their "
                f"terms, whatever their licence ({source.licence})"
            )
    elif closed and not permission:
        made = "features" if kind == "bags" else "models trained on features"
        raise RequestError(
            f"{made} of {source.name} are not shared: its licence ({closed[0]}) does not say that they may be; with "
            "the authors' permission say --permission 'WHO, WHEN'"
        )
