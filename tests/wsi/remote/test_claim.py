"""Claims behind URLs: one holder at a time, whatever dies or sleeps, also through a bad network."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from remote_server import BadProxy, objects

from wsi.errors import ClaimedError
from wsi.remote.claim import claim_remotely
from wsi.remote.place import Place

HOLD = """
import sys, time
from wsi.remote.claim import claim_remotely
from wsi.remote.place import Place
with claim_remotely(Place(sys.argv[1]), "a.zarr"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_holds_and_the_other_is_named(bucket: str, port: int) -> None:
    place = Place(f"s3://{bucket}/stores")
    with claim_remotely(place, "a.zarr") as held, claim_remotely(place, "b.zarr"):
        held.check()
        by = rf"a.zarr is being written by process {os.getpid()} on "
        with pytest.raises(ClaimedError, match=by) as caught, claim_remotely(place, "a.zarr"):
            pass
        assert "wait for it, or stop it" in str(caught.value)
    with claim_remotely(place, "a.zarr"):
        pass
    assert objects(port, bucket) == {}


def test_of_many_at_once_one_at_a_time_holds(bad_proxy: BadProxy, bucket: str) -> None:
    inside, most, held, lock = 0, 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most, held
        for _ in range(2):
            try:
                with claim_remotely(Place(f"s3://{bucket}"), "a"):
                    with lock:
                        inside, held = inside + 1, held + 1
                        most = max(most, inside)
                    time.sleep(0.05)
                    with lock:
                        inside -= 1
            except ClaimedError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)
    assert held >= 1


def test_a_dead_holders_claim_is_taken_over_and_a_sleeping_one_notices(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAMIL_REMOTE_LEASE", "3")
    place = Place(f"s3://{bucket}")
    with subprocess.Popen([sys.executable, "-c", HOLD, place.url], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        time.sleep(4)  # it lives longer than its lease, and renews it
        with pytest.raises(ClaimedError, match=f"process {holder.pid}"), claim_remotely(place, "a.zarr"):
            pass
        holder.send_signal(signal.SIGKILL)
    began = time.monotonic()
    while True:
        try:
            with claim_remotely(place, "a.zarr") as held:
                took = time.monotonic() - began
                assert took > 1, "taken over from a holder that had just given a sign of life"
                place.remove([held.key])  # as who takes over does to one that sleeps
                with pytest.raises(ClaimedError, match="gave no sign of life"):
                    held.check()
                return
        except ClaimedError:
            assert time.monotonic() - began < 20
            time.sleep(0.3)
