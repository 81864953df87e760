"""A real Slurm for the tests: munged, slurmctld and two slurmd of this machine, on free ports and in their own folder.

Partition `low` may be preempted by `high`: its jobs get their signal and 20 s, and go back into the queue. There they
wait 5 s, Slurm's own default being two minutes: sooner, a node would refuse them.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "squeue", "scontrol", "scancel")
CONFIGURATION = """\
ClusterName=gigamil
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SlurmctldTimeout=600
SlurmdTimeout=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=86400
SchedulerParameters=bf_interval=1,sched_interval=1
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=8 RealMemory=8000
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=n[1-2] PriorityTier=10
"""


@dataclass(frozen=True, slots=True)
class Slurm:
    """A Slurm that runs."""

    folder: Path

    def run(self, *words: object) -> str:
        """Run one of Slurm's programs; return what it printed."""
        ran = self.tried(*words)
        assert ran.returncode == 0, f"{' '.join(map(str, words))}: {ran.stderr}"
        return ran.stdout.strip()

    def tried(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run one of Slurm's programs, whatever comes of it."""
        return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60, check=False)

    def facts(self, job_id: str) -> dict[str, str]:
        """What Slurm says of a job."""
        told = self.run("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0]
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def state(self, job_id: str) -> str:
        """Slurm's word for it."""
        return self.facts(job_id)["JobState"]

    def queue(self) -> list[str]:
        """The jobs that wait or run: number, state, reason."""
        return self.run("squeue", "--noheader", "--array", "--format=%i %j %T %r").splitlines()

    def until(self, ready: Callable[[], object], seconds: float = 60) -> None:
        """Wait for something; what the queue and the logs say where it does not come."""
        until(ready, seconds, lambda: "\n".join(self.queue()))

    def ended(self, seconds: float = 120) -> None:
        """Wait for an empty queue."""
        self.until(lambda: not self.queue(), seconds)


def until(ready: Callable[[], object], seconds: float, told: Callable[[], str]) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds} s: {told()}"
        time.sleep(0.25)


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Start Slurm, point this process's environment at it; end it and all of its jobs."""
    missing = [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("the daemons of Slurm want root")
    folder = Path(tempfile.mkdtemp(prefix="gigamil-slurm-"))  # short: a socket's path has 108 characters at most
    with ExitStack() as ending, pytest.MonkeyPatch.context() as patch:
        ending.callback(shutil.rmtree, folder, ignore_errors=True)
        configuration = _configured(folder)
        patch.setenv("SLURM_CONF", str(configuration))
        patch.setenv("PATH", _path())
        daemons: list[subprocess.Popen[bytes]] = []
        ending.callback(lambda: [own.wait() for own in daemons])
        ending.callback(_end_all, str(configuration))
        daemons.append(_start(folder, "munged", "--foreground", "--force", *_munge(folder)))
        until(lambda: (folder / "munge.socket").exists(), 20, (folder / "munged.out").read_text)
        daemons.append(_start(folder, "slurmctld", "-D", "-f", str(configuration)))
        daemons += [_start(folder, "slurmd", "-D", "-N", node, "-f", str(configuration)) for node in ("n1", "n2")]
        slurm = Slurm(folder)
        until(_ready, 60, lambda: "\n".join(own.read_text() for own in folder.glob("*.out")))
        yield slurm


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _ready() -> bool:
    told = subprocess.run(["sinfo", "--noheader", "--format=%D %t", "--partition=low"], capture_output=True, text=True)
    return told.stdout.strip() == "2 idle"


def _configured(folder: Path) -> Path:
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    controller, first = free_ports(1)[0], _two_in_a_row()
    text = CONFIGURATION.format(
        host=socket.gethostname().split(".")[0], folder=folder, controller=controller, first=first, second=first + 1
    )
    (folder / "slurm.conf").write_text(text)
    return folder / "slurm.conf"


def _munge(folder: Path) -> list[str]:
    names = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    return [f"--{option}={folder}/munge.{name}" for option, name in names.items()]


def _start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    """Start a daemon that ends when this process does, killed perhaps."""
    name = "-".join([words[0], *(own for own in words if own in ("n1", "n2"))])
    with (folder / f"{name}.out").open("w") as out:
        daemon = ["setpriv", "--pdeathsig", "KILL", *words]
        return subprocess.Popen(daemon, stdout=out, stderr=out, start_new_session=True)


def _end_all(configuration: str) -> None:
    """Kill what runs with that configuration: the daemons, the jobs' keepers, the jobs."""
    for _ in range(3):
        for own in ours(configuration):
            own.kill()


def ours(configuration: str) -> list[psutil.Process]:
    """The processes that were started for this Slurm, less this one and those that it is a child of."""
    kept = {os.getpid(), *(own.pid for own in psutil.Process().parents())}
    found = []
    for own in psutil.process_iter():
        try:
            if own.pid not in kept and own.environ().get("SLURM_CONF") == configuration:
                found.append(own)
        except (psutil.Error, OSError):
            continue
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for own in sockets:
            own.bind(("127.0.0.1", 0))
        return [own.getsockname()[1] for own in sockets]
    finally:
        for own in sockets:
            own.close()


def _two_in_a_row() -> int:
    while True:
        first = free_ports(1)[0]
        if _is_free(first + 1):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as own:
        try:
            own.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def logs(folder: Path, names: Sequence[str] = ("*.log",)) -> str:
    """What jobs wrote, for a message."""
    return "\n".join(f"== {own.name}\n{own.read_text()}" for name in names for own in sorted(folder.glob(name)))
