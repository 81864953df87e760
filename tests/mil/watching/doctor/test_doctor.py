"""The doctor finds what a test has broken, and says nothing against what is whole."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mil.watching.doctor import gpu, installation, machine
from mil.watching.doctor.command import doctor, lines_of
from mil.watching.doctor.disk import Mount, between_hosts, clock, disk, mount_of
from mil.watching.doctor.finding import Finding, findings_of
from mil.watching.doctor.hub import asked, cached, token
from mil.watching.doctor.options import DoctorOptions


def levels(found: Iterator[Finding]) -> dict[str, str]:
    return {own.check: own.level for own in found}


def program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    target = tmp_path / "small"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(target)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    yield target
    subprocess.run(["umount", str(target)], check=True)


def test_a_sound_folder_is_found_sound_and_left_as_it_was(tmp_path: Path) -> None:
    found = list(disk(tmp_path))
    assert {own.check for own in found} == {
        "folder", "room", "disk speed", "clock", "locks", "locks between hosts"
    }  # fmt: skip
    assert not [own for own in found if own.level == "wrong" and own.check != "room"]
    assert next(own.found for own in found if own.check == "locks").endswith("holds held, and after kill -9 free")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_wrong_and_left_empty(small_disk: Path) -> None:
    found = list(disk(small_disk))
    assert levels(iter(found))["room"] == "wrong"
    assert [(own.level, own.advice) for own in found if "No space left" in own.found] == [
        ("wrong", "make room, or give another --folder")
    ]
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    found = list(disk(Path("/proc")))
    assert found[-1].level == "wrong"
    assert found[-1].advice.startswith(("give a --folder", "make room"))


def test_locks_that_do_not_hold_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk mounted without them: claims are turned off in the processes that try."""
    monkeypatch.setenv("GIGAMIL_NO_LOCK", "1")
    locks = next(own for own in disk(tmp_path) if own.check == "locks")
    assert (locks.level, "holds free" in locks.found) == ("wrong", True)


@pytest.mark.parametrize(
    ("kind", "options", "there", "level"),
    [
        ("nfs4", "rw,local_lock=none", None, "warning"),
        ("nfs4", "rw,local_lock=none", "held", "ok"),
        ("nfs4", "rw,local_lock=none", "free", "wrong"),
        ("nfs", "rw,nolock", None, "wrong"),
        ("lustre", "rw,localflock", None, "wrong"),
        ("ext4", "rw", None, "ok"),
    ],
)
def test_between_hosts(tmp_path: Path, kind: str, options: str, there: str | None, level: str) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        f"a / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040data {kind} {options} 0 0\nb {tmp_path}/my tmpfs rw 0 0\n"
    )
    mount = mount_of(tmp_path / "my data" / "stores", table)
    assert (mount.source, mount.kind) == ("server:/x", kind)
    assert mount_of(tmp_path / "other", table).source == "a"
    assert between_hosts(there, mount).level == level


def test_a_clock_that_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = time.time
    for ahead, level in ((0, "ok"), (5, "warning"), (-3600, "wrong")):
        monkeypatch.setattr("time.time", lambda ahead=ahead: real() + ahead)
        found = clock(tmp_path)
        assert found.level == level
        assert not ahead or f"{abs(ahead)}." in found.found or f"{abs(ahead) - 1}." in found.found


def test_few_open_files() -> None:
    code = "from mil.watching.doctor.machine import open_files as f; print(f().level, f().found)"
    limited = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 100)); {code}"
    ran = subprocess.run([sys.executable, "-c", limited], check=True, capture_output=True, text=True)
    assert ran.stdout == "wrong 100 at once (may be raised to 100)\n"


def test_small_shared_memory(small_disk: Path) -> None:
    assert machine.shared_memory(str(small_disk)).level == "wrong"
    assert machine.shared_memory(str(small_disk / "absent")).level == "warning"


def test_taken_ports_and_no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(machine, "_PORTS", {port: "mine"})
        found = machine.usual_ports()
        assert (found.level, f"{port} (mine)" in found.found) == ("warning", True)
    assert machine.usual_ports().level == "ok"
    assert machine.loopback().level == "ok"

    def refused(*_: object, **__: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.create_server", refused)
    assert machine.loopback().level == "wrong"
    monkeypatch.setattr("socket.gethostname", lambda: "no-such-host.invalid")
    assert machine.own_name().level == "warning"


def test_packages_against_what_is_required(tmp_path: Path) -> None:
    assert installation.packages(["numpy>=1", "other>1; extra == 'x'"]).level == "ok"
    found = installation.packages(["numpy>=900", "no-such-package>=1"])
    assert (found.level, "no-such-package is missing" in found.found, "expected >=900" in found.found) == (
        "wrong", True, True
    )  # fmt: skip
    pins = tmp_path / "constraints.txt"
    pins.write_text("# made\nNumPy==0.1 ; python_version >= '3'\nnumpy==0.2 ; python_version < '3'\nh5py>=1\n")
    other = installation.tested_versions(pins, ["numpy", "h5py"])
    assert (other.level, "(tested: 0.1)" in other.found) == ("warning", True)
    assert installation.tested_versions(tmp_path / "absent", ["numpy"]).level == "ok"


def test_codecs_that_give_other_pixels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import imagecodecs

    assert installation.codecs().level == "ok"
    real = imagecodecs.zstd_decode
    monkeypatch.setattr(imagecodecs, "zstd_decode", lambda data: bytes(len(real(data))))
    found = installation.codecs()
    assert (found.level, found.found.startswith("zstd gives other pixels")) == ("wrong", True)


def test_programs_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert installation.tesseract().level == "warning"
    assert installation.slurm_tools().found == "none here"
    program(tmp_path, "squeue", "echo 12; echo 13")
    assert installation.slurm_tools().level == "warning"
    for name in ("sbatch", "scontrol", "srun"):
        program(tmp_path, name, "")
    assert installation.slurm_tools().found == "answers; 2 of your jobs are in the queue"
    program(tmp_path, "squeue", "echo 'slurm_load_jobs error: no controller' >&2; exit 1")
    assert installation.slurm_tools() == Finding(
        "Slurm",
        "wrong",
        "slurm_load_jobs error: no controller",
        "use a node of the cluster; see slurmctld and munge there",
    )


def test_the_driver_against_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}")
    seen: dict[str, Any] = {"cuda": "13.0", "cards": [], "why": "driver too old"}
    assert gpu.judged_driver(gpu.driver_of(), seen).level == "ok"
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert gpu.judged_driver(gpu.driver_of(), seen).found == "NVIDIA-SMI has failed"
    program(tmp_path, "nvidia-smi", "echo 535.1; echo 535.1")
    found = gpu.judged_driver(gpu.driver_of(), seen)
    assert (found.level, found.found) == ("wrong", "2 by driver 535.1, none of which torch can use: driver too old")
    assert gpu.judged_driver(gpu.driver_of(), {**seen, "cuda": None}).advice == "install the CUDA build of torch"
    assert gpu.judged_driver(gpu.driver_of(), {**seen, "cards": [{}]}).level == "ok"


def test_torch_is_tried_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_PROBE", "import os; os.abort()")
    assert "error" in gpu.probed()
    monkeypatch.setattr(gpu, "_SECONDS", 0.5)
    monkeypatch.setattr(gpu, "_PROBE", "import time; time.sleep(60)")
    assert "gave no answer" in gpu.probed()["error"]


def test_cards_and_nccl() -> None:
    card = {"index": 0, "name": "H100", "free": 70 << 30, "total": 80 << 30, "error": ""}
    assert gpu.judged_card(card).level == "ok"
    assert gpu.judged_card({**card, "free": 1 << 30}).level == "warning"
    assert gpu.judged_card({**card, "error": "no kernel image"}).level == "wrong"
    assert [gpu.judged_nccl({"nccl": told}).level for told in ("2.27", "", "error: x")] == ["ok", "warning", "warning"]


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A hub on this machine that answers with one status."""
    answers = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"name": "anna"}).encode()
            self.send_response(answers[-1])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", address, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield answers.append
        server.shutdown()
        thread.join()


def test_the_hub_is_asked_with_the_token(hub_server: Callable[[int], None]) -> None:
    first = next(asked())
    assert (first.level, first.found.endswith("knows anna")) == ("ok", True)
    hub_server(401)
    assert [(own.check, own.level) for own in asked()] == [("hub", "wrong")]
    hub_server(503)
    (down,) = asked()
    assert (down.level, "does not answer" in down.found) == ("wrong", True)
    assert token().found == "there is one (HF_TOKEN)"


def test_the_cache_is_named_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code = "from mil.watching.doctor.hub import cached; print(cached().found)"
    snapshot = tmp_path / "models--anna--net" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--anna--net" / "refs").mkdir()
    (tmp_path / "models--anna--net" / "refs" / "main").write_text("abc")
    (snapshot / "model.bin").write_bytes(b"x" * 1000)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert ran.stdout == f"{tmp_path}: anna/net (0.0 GB); HF_HUB_OFFLINE is set\n"
    assert cached().level == "ok"


def test_a_check_that_cannot_be_carried_out_is_a_finding() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("a", "ok", "b")
        raise ZeroDivisionError("so\nit is")

    last = list(findings_of("x", check))[-1]
    assert last == Finding("x", "wrong", "could not be tried: ZeroDivisionError: so", "see to that first")


def test_the_exit_code_and_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Finding("b", "wrong", "found [it]", "do that")
    for found, code in (([Finding("a", "ok", "x")], 0), ([Finding("a", "warning", "x", "y"), bad], 1)):
        monkeypatch.setattr("mil.watching.doctor.command.all_findings", lambda options, found=found: iter(found))
        assert doctor(DoctorOptions(folder=tmp_path), json=True) == code
        told = json.loads(capsys.readouterr().out)
        assert [own["check"] for own in told["findings"]] == [own.check for own in found]
        assert doctor(DoctorOptions(folder=tmp_path), json=False) == code
        out = capsys.readouterr().out
    assert out.splitlines()[-3:] == [
        "WRONG b: found [it]", "      -> do that", "2 checks: 1 wrong, 1 warning"
    ]  # fmt: skip
    assert [str(line) for line in lines_of(bad)] == ["WRONG b: found [it]", "      -> do that"]


def test_the_mount_of_this_machine_is_found() -> None:
    assert mount_of(Path("/proc/self")).kind == "proc"
    assert mount_of(Path("/x"), Path("/no/such/table")) == Mount("?", "an unknown file system", ())
