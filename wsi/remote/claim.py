"""One writer per output behind a URL: claims without locks, for object stores have none.

Who wants an output writes an object of its own beside the output, then lists: where another claim is alive, it takes
its own back. Of two who come at once at most one stays, as each writes before it lists. A claim lives as long as its
holder rewrites it; ages are differences of the server's times, so that no machine's clock counts. Who takes over
removes the dead claim first: its holder, should it wake up, sees that and writes nothing more. Conditional writes are
not wanted: servers that do not know them ignore the condition.
"""

import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from wsi.errors import ClaimedError, GigamilError
from wsi.options import NO_LOCK
from wsi.remote.place import Found, Place

LEASE = "GIGAMIL_REMOTE_LEASE"
"""Environment variable: seconds without a sign of life after which a claim counts as its dead holder's."""
_LEASE_S = 180.0
_TRIES, _MOMENT_S = 6, 2.0
"""Of those who come at one moment, all of whom may step back."""
FOLDER = ".gigamil"
"""Beside published items: what was published, and claims."""


def lease_s() -> float:
    """Return the seconds after which a claim that nobody renews is nobody's."""
    try:
        return max(0.5, float(os.environ.get(LEASE, "")))
    except ValueError:
        return _LEASE_S


def _now() -> float:
    """Return seconds that also pass while the machine sleeps, where the system tells them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class Held:
    """A claim that this process holds, and renews from a thread of its own."""

    place: Place
    """The folder that the output lies in."""
    name: str
    key: str
    """Of the claim's object; empty where claims are turned off."""
    _renewed: float = field(default_factory=_now)
    _lost: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise `ClaimedError` where somebody took the output over; asked before anything becomes whole."""
        if self.key and not self._lost:
            ages = _ages(self.place, self.name, self.key)
            overdue = _now() - self._renewed > lease_s()
            self._lost = ages is None or (overdue and any(age <= lease_s() for age in ages.values()))
        if self._lost:
            raise ClaimedError(
                f"{self.place.at(self.name)}: this process gave no sign of life for {lease_s():g} s, and another may "
                "have taken it over: run the same command again"
            )

    def _renew(self) -> None:
        """Rewrite the claim every sixth of its life, as long as it is there."""
        while not self._ended.wait(lease_s() / 6):
            try:
                if _now() - self._renewed > lease_s() / 2:  # this process, or the network, slept
                    self.check()
                self.place.write(self.key, _mine())
                self._renewed = _now()
            except ClaimedError:
                return
            except GigamilError:
                continue  # the network: `check` looks before anything is whole


@contextmanager
def claim_remotely(place: Place, name: str) -> Iterator[Held]:
    """Hold the right to write an output of a folder behind a URL while the block runs.

    A holder that dies loses it after `lease_s` seconds.

    Raises
    ------
    ClaimedError
        Another process holds it; the message names host and process id.
    RequestError, RemoteError
        The claim cannot be written.
    """
    if os.environ.get(NO_LOCK):
        yield Held(place, name, "")
        return
    held = _taken(place, name)
    renewing = threading.Thread(target=held._renew, daemon=True, name=f"claim of {name}")
    renewing.start()
    try:
        yield held
    finally:
        held._ended.set()
        renewing.join()
        with suppress(GigamilError):  # left over, it ends by its age
            place.remove([held.key])


def _taken(place: Place, name: str) -> Held:
    """Write a claim; return it where it is the only one that is alive."""
    key, holder = f"{_folder(name)}/{secrets.token_hex(8)}.json", "another process"
    for attempt in range(_TRIES):
        try:
            place.write(key, _mine())
            ages = _ages(place, name, key)
            alive = {other: age for other, age in (ages or {}).items() if age <= lease_s()}
            if ages is not None and not alive:
                place.remove(ages)
                return Held(place, name, key)
            holder = next((_holder(place, other) for other in alive), holder)
        except BaseException:
            _take_back(place, key)
            raise
        _take_back(place, key)
        if any(age > _MOMENT_S for age in alive.values()):
            break
        time.sleep(random.uniform(0, 0.2 * 2**attempt))  # perhaps both of us have just stepped back
    raise ClaimedError(f"{place.at(name)} is being written by {holder}: wait for it, or stop it")


def _take_back(place: Place, key: str) -> None:
    with suppress(GigamilError):
        place.remove([key])


def _ages(place: Place, name: str, own: str) -> dict[str, float] | None:
    """Return others' claims, and by how many seconds of the server's clock their last sign of life is before ours.

    None where our own claim is gone.
    """
    found = place.files(_folder(name))
    if own not in found:
        return None
    return {key: _age(found[own], other) for key, other in found.items() if key != own}


def _age(now: Found, then: Found) -> float:
    return (now.modified - then.modified).total_seconds() if now.modified and then.modified else 0.0


def _folder(name: str) -> str:
    return f"{FOLDER}/claims/{name}"


def _mine() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()


def _holder(place: Place, key: str) -> str:
    try:
        told = json.loads(place.read(key) or b"")
        return f"process {int(told['pid'])} on {str(told['host'])[:255]}"
    except (ValueError, TypeError, KeyError, GigamilError):
        return "another process"
