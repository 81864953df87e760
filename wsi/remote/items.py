"""Items of one folder behind a URL, which several processes and machines make together: each is made once.

Who finds an item claimed goes on with others and comes back at the end: until then it is whole, or its maker is dead.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from wsi.errors import ClaimedError, GigamilError
from wsi.machine.interrupt import leave_if_asked
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Status
from wsi.remote.claim import lease_s

_Item = TypeVar("_Item")
_FIRST_WAIT_S = 0.5


def made_once(
    make: Callable[[_Item], Outcome],
    items: Iterable[_Item],
    name: Callable[[_Item], str],
    at_once: int,
    note: Callable[[str], None],
) -> list[Outcome]:
    """Make items side by side; return their outcomes in order.

    Parameters
    ----------
    make
        Makes one item; raises `ClaimedError` where another process makes it.
    name
        An item's id.
    at_once
        Items under way.
    note
        Takes a line for a person.
    """
    known = {name(item): item for item in items}

    def some(left: list[str]) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}

        def one(own: str) -> None:
            try:
                outcomes[own] = make(known[own])
            except ClaimedError:
                return
            except (GigamilError, OSError) as error:
                outcomes[own] = Outcome(own, Status.FAILED, told(error))

        _side_by_side(one, left, at_once)
        return outcomes

    outcomes = until_all(some, list(known), note)
    return [outcomes[own] for own in known]


def until_all(
    some: Callable[[list[str]], dict[str, Outcome]], items: list[str], note: Callable[[str], None]
) -> dict[str, Outcome]:
    """Call ``some`` with the items that are left, which returns the outcomes of those it could take, until none is.

    Where it could take none, all of them are others': it is asked again, later and later, until they are done or dead.
    """
    outcomes: dict[str, Outcome] = {}
    left, wait, waits = items, _FIRST_WAIT_S, False
    while left:
        leave_if_asked()
        came = some(left)
        outcomes |= came
        left = [own for own in left if own not in outcomes]
        if came or not left:
            wait = _FIRST_WAIT_S
            continue
        if not waits:
            note(f"waiting for {plural(len(left), 'item')} that other processes make")
        waits = True
        time.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, max(_FIRST_WAIT_S, lease_s() / 6))
    return outcomes


def _side_by_side(one: Callable[[str], None], items: list[str], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for _ in pool.map(one, items):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def told(error: BaseException) -> str:
    """Return one line for a person."""
    if isinstance(error, OSError) and not isinstance(error, GigamilError) and error.strerror:
        return f"{error.filename or 'input or output'}: {error.strerror}"
    return str(error)


def as_record(outcome: Outcome) -> Mapping[str, Any]:
    """Return what a record keeps of an outcome."""
    return {"id": outcome.item_id, "status": outcome.status.value, "reason": outcome.reason, **outcome.facts}
