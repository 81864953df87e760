"""Whether the disk under a folder is fit: room, speed, locks that other processes and hosts see, its clock."""

import errno
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mil.watching.doctor.finding import Finding, judged
from wsi.errors import ClaimedError, NoLocksError
from wsi.files.claim import claim

_GB, _MIB = 1e9, 2**20
_BYTES = 64 * _MIB
_SYNCS = 20
_HOLDER = "import sys; from pathlib import Path; from mil.watching.doctor.disk import hold; hold(Path(sys.argv[1]))"
_TRIER = (
    "import sys; from pathlib import Path; from mil.watching.doctor.disk import tried; print(tried(Path(sys.argv[1])))"
)
_SECONDS = 60
HELD, FREE, NONE = "held", "free", "no locks"


def disk(folder: Path) -> Iterator[Finding]:
    """Try a folder, or the nearest folder above it that exists; whatever is written there is removed."""
    place = _nearest(folder.absolute())
    mount = mount_of(place)
    yield judged("folder", f"{place} on {mount.kind} ({mount.source})")
    try:
        with _scratch(place) as scratch:
            yield room(place)
            yield speed(scratch)
            yield clock(scratch)
            yield from locks(scratch, mount)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room, or give another --folder" if full else "give a --folder that you may write to"
        yield Finding("folder", "wrong", f"{place}: {error.strerror}", advice)


def _nearest(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".gigamil-doctor-", dir=place) as name:
        yield Path(name)


def room(place: Path) -> Finding:
    """Look at free bytes and free files."""
    found = os.statvfs(place)
    free, size = found.f_bavail * found.f_frsize, max(1, found.f_blocks * found.f_frsize)
    files = found.f_favail
    told = f"{free / _GB:,.1f} GB free of {size / _GB:,.0f}"
    few = found.f_files > 0 and files < 10_000
    told += f"; room for {files:,} files" if few else ""
    return judged(
        "room",
        told,
        wrong=free < 0.1 * _GB or (found.f_files > 0 and files < 100),
        warning=free < 20 * _GB or few,
        advice="make room: a store takes about as much as its slide, lossless several times that",
    )


def speed(scratch: Path) -> Finding:
    """Write, flush and read 64 MiB; flush small files, as every finished output is."""
    data = os.urandom(_MIB)
    path = scratch / "speed"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(_BYTES // _MIB):
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
        write = _BYTES / 1e6 / (time.perf_counter() - began)
        with suppress(OSError, AttributeError):  # or memory, not the disk, would be read
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(_MIB):
            pass
    read = _BYTES / 1e6 / (time.perf_counter() - began)
    flush = statistics.median(_flush(scratch / f"small{number}") for number in range(_SYNCS))
    told = f"writes {write:,.0f} MB/s, reads {read:,.0f} MB/s, a flush takes {1000 * flush:.1f} ms"
    slow = write < 20 or read < 20 or flush > 0.2
    return judged("disk speed", told, warning=slow, advice="give a --folder on a faster disk, a local one perhaps")


def _flush(path: Path) -> float:
    began = time.perf_counter()
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path, path.with_suffix(".whole"))  # noqa: TID251 -- our own scratch
    return time.perf_counter() - began


def clock(scratch: Path) -> Finding:
    """Hold the clock of the file system against this machine's."""
    before = time.time()
    path = scratch / "clock"
    path.write_bytes(b"x")
    stamp = path.stat().st_mtime
    after = time.time()
    off = max(before - stamp, stamp - after, 0.0)
    return judged(
        "clock",
        f"the disk's and this machine's differ by {off:.1f} s" if off > 0.1 else "as the disk's",
        wrong=off > 60,
        warning=off > 2,
        advice="let both follow a time server (chronyd, systemd-timesyncd)",
    )


def locks(scratch: Path, mount: "Mount") -> Iterator[Finding]:
    """Hold a claim in one process and try it in others, here and on another node of the job; kill the holder."""
    target = scratch / "claimed"
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(target)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            told = holder.stdout.readline().strip()
            if told != HELD:
                why = told or "the process that should hold one ended"
                yield Finding(
                    "locks", "wrong", f"none on this file system: {why}", "give --no-lock, and one run a folder"
                )
                return
            here = _try(target, ())
            there = _try(target, other_node()) if other_node() else None
        finally:
            holder.kill()
    after = _try(target, ())
    yield judged(
        "locks",
        f"a second process finds what one holds {here}, and after kill -9 {after}",
        wrong=(here, after) != (HELD, FREE),
        advice="locks do not hold on this disk: give --no-lock, and see to it that one run alone writes to a folder",
    )
    yield between_hosts(there, mount)


def between_hosts(there: str | None, mount: "Mount") -> Finding:
    """Tell whether another host sees a claim: as it was tried, else by how the disk is mounted."""
    name, advice = "locks between hosts", "give --no-lock, and see to it that hosts do not share slides"
    if there is not None:
        return judged(name, f"another node finds what is held here {there}", wrong=there != HELD, advice=advice)
    if why := mount.local_locks():
        return Finding(name, "wrong", why, f"mount it with shared locks, or {advice}")
    if mount.shared:
        told = f"not tried: {mount.kind}, mounted so that they should hold"
        return judged(name, told, warning=True, advice="try it: run this in a job of two nodes")
    return judged(name, f"{mount.kind} is this host's own")


def hold(target: Path) -> None:
    """Claim a path until killed; print that it is held, or why not."""
    try:
        with claim(target):
            print(HELD, flush=True)
            time.sleep(_SECONDS)
    except (NoLocksError, OSError) as error:
        print((str(error).splitlines() or [""])[0], flush=True)


def tried(target: Path) -> str:
    """Claim a path for a moment; return whether it was held."""
    try:
        with claim(target):
            return FREE
    except ClaimedError:
        return HELD
    except NoLocksError:
        return NONE


def _try(target: Path, elsewhere: Sequence[str]) -> str:
    command = [*elsewhere, sys.executable, "-c", _TRIER, str(target)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    return ran.stdout.strip() or (ran.stderr.strip().splitlines() or ["no answer"])[-1]


def other_node() -> tuple[str, ...]:
    """Return how a command is run on another node of this job; nothing outside a job of several nodes."""
    nodes, own = os.environ.get("SLURM_JOB_NODELIST"), os.environ.get("SLURMD_NODENAME", "")
    if not nodes or not shutil.which("srun") or not shutil.which("scontrol"):
        return ()
    command = ["scontrol", "show", "hostnames", nodes]
    names = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False).stdout.split()
    others = [name for name in names if name != own]
    return ("srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={others[0]}") if others else ()


@dataclass(frozen=True, slots=True)
class Mount:
    """The file system that a folder lies on."""

    source: str
    kind: str
    options: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Whether other hosts may see it, too."""
        return self.kind.startswith(("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse.", "9p", "afs"))

    def local_locks(self) -> str:
        """Return why locks on it are this host's alone; nothing where they are not, as far as its options tell."""
        bad = [own for own in self.options if own in ("nolock", "local_lock=flock", "local_lock=all", "localflock")]
        return f"{self.kind} is mounted with {bad[0]}: other hosts do not see locks" if self.shared and bad else ""


def mount_of(folder: Path, table: Path = Path("/proc/self/mounts")) -> Mount:
    """Return the mount that a folder lies on."""
    best, found = -1, Mount("?", "an unknown file system", ())
    with suppress(OSError):
        for line in table.read_text("utf-8", "replace").splitlines():
            source, point, kind, options, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if folder.is_relative_to(point) and len(point) >= best:
                best, found = len(point), Mount(source, kind, tuple(options.split(",")))
    return found
