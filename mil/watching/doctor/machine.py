"""Whether the machine is fit: processors, memory, shared memory, open files, ports, how fast tiles are decoded."""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import numpy as np

from mil.planning.machine import this_machine
from mil.watching.doctor.finding import Finding, judged

SHARED = "/dev/shm"
_GIB, _MIB = 2**30, 2**20
_PORTS = {8786: "a Dask scheduler", 8787: "its dashboard", 29500: "torchrun"}
_DECODE_SECONDS = 0.3
_SLOW_MPIX = 10.0
"""Megapixels a second and core of JPEG below which something is wrong: common servers do 60 to 150."""


def machine() -> Iterator[Finding]:
    """Look at everything that is the machine's own."""
    yield judged("machine", str(this_machine()).removesuffix(", no GPU"))
    yield decoding()
    yield shared_memory(SHARED)
    yield open_files()
    yield loopback()
    yield own_name()
    yield usual_ports()


def decoding() -> Finding:
    """Decode tiles as the tiler and the extraction do: JPEG, and deflate."""
    import imagecodecs

    rng = np.random.default_rng(0)
    rough = rng.integers(90, 200, (64, 64, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    jpeg = imagecodecs.jpeg8_encode(rough, level=80)
    packed = imagecodecs.deflate_encode(rough.tobytes())
    speeds = {
        "JPEG": _mpix(lambda: imagecodecs.jpeg8_decode(jpeg)),
        "deflate": _mpix(lambda: imagecodecs.deflate_decode(packed)),
    }
    told = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()) + " megapixels a second on one core"
    return judged(
        "decoding",
        told,
        warning=speeds["JPEG"] < _SLOW_MPIX,
        advice="other work takes the cores, or the container's share of them is small",
    )


def _mpix(decode: Callable[[], object]) -> float:
    """Return megapixels of 256-px tiles that are decoded a second."""
    decode()
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < _DECODE_SECONDS:
        decode()
        count += 1
    return count * 256 * 256 / 1e6 / took


def shared_memory(folder: str) -> Finding:
    """Look at the size of ``/dev/shm``, through which processes of torch and NCCL exchange data."""
    if not os.path.isdir(folder):
        return Finding("shared memory", "warning", f"there is no {folder}", "mount a tmpfs there")
    found = os.statvfs(folder)
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    told = f"{folder}: {size / _MIB:,.0f} MiB, {free / _MIB:,.0f} free"
    advice = "docker run --shm-size=8g (or --ipc=host); else remove what lies there"
    return judged("shared memory", told, wrong=free < 48 * _MIB, warning=free < _GIB, advice=advice)


def open_files() -> Finding:
    """Look at the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = {resource.RLIM_INFINITY: "unlimited"}
    told = f"{shown.get(soft, soft)} at once (may be raised to {shown.get(hard, hard)})"
    small = soft != resource.RLIM_INFINITY
    return judged(
        "open files",
        told,
        wrong=small and soft < 256,
        warning=small and soft < 1024,
        advice="ulimit -n 4096 before the command; on a cluster, in the job's setup lines",
    )


def loopback() -> Finding:
    """Talk to oneself over a free port of 127.0.0.1, as Dask and ranks do."""
    try:
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            server.settimeout(5)
            with closing(socket.create_connection(server.getsockname(), timeout=5)) as here:
                there, _ = server.accept()
                with closing(there):
                    here.sendall(b"x")
                    heard = there.recv(1)
    except OSError as error:
        return Finding("loopback", "wrong", f"127.0.0.1: {error.strerror or error}", "see the firewall of this machine")
    return judged("loopback", "127.0.0.1 can be listened on and talked to", wrong=heard != b"x")


def own_name() -> Finding:
    """Resolve the machine's own name, which torch's and Dask's workers of other nodes use."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        told = f"{name} has no address ({error.strerror or error})"
        return Finding("own name", "warning", told, "needed across nodes alone: add it to /etc/hosts or DNS")
    return judged("own name", f"{name} is {address}")


def usual_ports() -> Finding:
    """Tell which of the usual ports somebody listens on."""
    taken = [f"{port} ({of})" for port, of in _PORTS.items() if _answers(port)]
    return judged(
        "usual ports",
        f"taken: {', '.join(taken)}" if taken else f"{', '.join(map(str, _PORTS))} are free",
        warning=bool(taken),
        advice="somebody's Dask or torchrun runs here: give another port (--rdzv-endpoint, --port) for your own",
    )


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
