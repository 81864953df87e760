"""Items of one folder behind a URL, which several processes and machines make together: each is made once.

Who finds an item claimed goes on with others and comes back at the end: until then it is whole, or its maker is dead.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from wsi.errors import ClaimedError, GigamilError
from wsi.outcome import Outcome, Status
from wsi.remote.claim import lease_s

_Item = TypeVar("_Item")


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
    several = list(items)
    outcomes: dict[int, Outcome] = {}

    def one(number: int) -> None:
        try:
            outcomes[number] = make(several[number])
        except ClaimedError:
            return
        except (GigamilError, OSError) as error:
            outcomes[number] = Outcome(name(several[number]), Status.FAILED, told(error))

    left, wait = list(range(len(several))), 0.5
    while left:
        _side_by_side(one, left, at_once)
        remains = [number for number in left if number not in outcomes]
        if len(remains) == len(left):  # all of them are others': until they are done, or dead
            time.sleep(random.uniform(wait / 2, wait))
            wait = min(2 * wait, lease_s() / 4)
        elif remains:
            note(f"waiting for {len(remains)} items that other processes make")
            wait = 0.5
        left = remains
    return [outcomes[number] for number in range(len(several))]


def _side_by_side(one: Callable[[int], None], numbers: list[int], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for _ in pool.map(one, numbers):
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
