"""Waiting for what another process is at: moments for a table, as long as it takes for the items of a stage."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wsi.errors import ClaimedError
from wsi.files.claim import claim
from wsi.machine.interrupt import leave_if_asked
from wsi.progress.outcome import CLAIMED, Outcome, Progress

_LOOK_SECONDS = (0.2, 5.0)
"""Between two looks at who holds something, first and later."""


@contextmanager
def claim_patiently(output: Path, seconds: float) -> Iterator[None]:
    """Hold the claim on ``output`` as `wsi.files.claim.claim`, once whoever has it gives it back; not for ever."""
    deadline = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(claim(output))
                break
            except ClaimedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.005, 0.05))
        yield


def wait_while(holders: Callable[[], dict[str, str]], what: str, progress: Progress) -> None:
    """Wait until nobody holds any of some things; say who does, whenever it is somebody else.

    ``holders`` returns thing -> who holds it, in words.
    """
    told, seconds = "", _LOOK_SECONDS[0]
    while held := holders():
        whom = ", ".join(dict.fromkeys(held.values()))
        if whom != told:
            things = next(iter(held)) if len(held) == 1 else f"{len(held)} {what}"
            progress.note(f"waiting for {whom}: {things}")
            told = whom
        leave_if_asked()
        time.sleep(seconds)
        seconds = min(seconds * 1.5, _LOOK_SECONDS[1])


def is_held(outcome: Outcome) -> bool:
    """Tell whether an item failed only because another process was at it."""
    return bool(outcome.facts.get(CLAIMED))


def shared_with_others(
    do: Callable[[], Sequence[Outcome]],
    holder: Callable[[str], str],
    what: str,
    progress: Progress,
) -> list[Outcome]:
    """Do a stage; while others have items of it, wait for them and do the stage again, which takes what they left."""
    while True:
        outcomes = list(do())
        held = [own.item_id for own in outcomes if is_held(own)]
        if not held:
            return outcomes
        wait_while(lambda held=held: {i: who for i in held if (who := holder(i))}, what, progress)  # type: ignore[misc]
