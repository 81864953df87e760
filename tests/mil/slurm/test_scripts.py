"""What job scripts ask for and run, and what a cohort file may say of it; no Slurm is needed."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.slurm.options import SubmitOptions
from mil.slurm.queue import jobs, scripts_folder
from mil.slurm.scripts import Script, after_script, extract_script, functions, tile_scripts, train_script
from mil.slurm.settings import (
    TABLES,
    SlurmSettings,
    check_directives,
    check_line,
    check_word,
    seconds_of,
    settings_of,
)
from mil.slurm.submit import submit
from wsi.errors import RequestError
from wsi.options import specs


def cohort(folder: Path, name: str = "cohort", **slurm: Any) -> CohortFile:
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text("image_id,center_id,patient_id,image_num,label\na_0,1,a,0,CE\nb_0,1,b,0,LAA\n")
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({"slides": ["slides"], "manifest": "train.csv", "slurm": slurm}))
    (folder / "slides").mkdir(exist_ok=True)
    for name in ("a_0", "b_0"):
        (folder / "slides" / f"{name}.tif").touch()  # they are looked for, and not into
    return read_cohort_file(path)


def scripts(file: CohortFile) -> list[Script]:
    extract, train = extract_script(file, last=False), train_script(file, 3, last=False)
    return [*tile_scripts(file, last=False), extract, train, after_script(file)]


def asked(script: Script) -> list[str]:
    """What follows #SBATCH."""
    return [line.removeprefix("#SBATCH ") for line in script.text.splitlines() if line.startswith("#SBATCH ")]


def test_what_slurm_is_asked_for_is_passed_on(tmp_path: Path) -> None:
    common = {"partition": "gpu", "account": "lab-1", "qos": "long", "time": "1-02:00:00", "mem": "32G"}
    more = {"gres": "gpu:a100:2", "constraint": "[ib|opa]&nvme", "sbatch": ["--mail-type=FAIL"], "signal": 300}
    file = cohort(tmp_path, **common, train={**more, "array": 2, "cpus": 6})
    for script in scripts(file):
        assert {f"--{name}={value}" for name, value in common.items()} <= set(asked(script))
        assert {"--requeue", "--open-mode=append", "--kill-on-invalid-dep=yes"} <= set(asked(script))
    train, after = asked(scripts(file)[3]), asked(scripts(file)[4])
    assert {"--gres=gpu:a100:2", "--constraint=[ib|opa]&nvme", "--mail-type=FAIL", "--signal=B:USR1@300"} <= set(train)
    assert {"--array=0-2%2", "--cpus-per-task=6", "--output=%x-%A_%a.log"} <= set(train)
    assert not [line for line in after if "gres" in line or "array" in line]
    assert "--signal=B:USR1@120" in after


def test_scripts_are_shell_with_paths_quoted(tmp_path: Path) -> None:
    file = cohort(tmp_path / "it's a $(touch x) `folder`", setup=["module load cuda", "export A='b c'"])
    for name, text in [(own.job, own.text) for own in scripts(file)] + [("functions", functions(file)[1])]:
        place = tmp_path / f"{name}.sh"
        place.write_text(text)
        ran = subprocess.run(["bash", "-n", place], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
    text = scripts(file)[2].text
    words = next(line for line in text.splitlines() if "cli run" in line).removesuffix(" &")
    told = subprocess.run(["bash", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True, check=True)
    assert str(file.path) in told.stdout.splitlines()
    assert text.index("module load cuda") < text.index("export A=") < text.index("cli run")
    assert f'--chdir="{file.folder}/slurm"' in asked(scripts(file)[2])


def test_a_container_holds_every_program(tmp_path: Path) -> None:
    file = cohort(tmp_path, container="/images/gigamil 1.sif", container_options=["--nv", "--bind", "/data"])
    words = "apptainer exec --nv --bind /data '/images/gigamil 1.sif' python3 -m"
    programs = ["dask scheduler", "cli run", "dask worker", "cli run", "cli run", "cli run"]
    told = "".join(script.text for script in scripts(file))
    assert [told.count(f"{words} {own}") for own in programs[:3]] == [1, 4, 1]
    assert "venv" not in told


def test_workers_leave_before_their_walltime_ends(tmp_path: Path) -> None:
    workers = tile_scripts(cohort(tmp_path, time="1:00:00", tile={"cpus": 8}), last=False)[1]
    assert " --nworkers 8 --nthreads 1 " in workers.text
    assert " --lifetime 3060s --lifetime-stagger 360s " in workers.text  # and 120 s for the signal, 60 s of its haste
    assert "--lifetime" not in tile_scripts(cohort(tmp_path, "other"), last=False)[1].text


def test_fewer_jobs_than_experiments_take_one_after_the_other(tmp_path: Path) -> None:
    file = cohort(tmp_path, train={"jobs": 2})
    assert "--array=0-1" in asked(train_script(file, 5, last=True))
    assert " --rows 0 " in train_script(file, 5, last=True).text
    assert " --rows 1 " in train_script(file, 2, last=True).text
    assert "go_on" in train_script(file, 2, last=False).text
    assert "go_on" not in train_script(file, 2, last=True).text


def test_a_rank_for_each_gpu_and_several_nodes_by_torchrun(tmp_path: Path) -> None:
    one = extract_script(cohort(tmp_path, extract={"gpus": 4, "jobs": 3}), last=False)
    assert {"--gpus-per-node=4", "--array=0-2", "--nodes=1"} <= set(asked(one))
    assert "--stage extract --nproc 4 --take 16" in one.text
    several = extract_script(cohort(tmp_path, "other", extract={"gpus": 4, "nodes": 2}), last=False)
    assert {"--gpus-per-node=4", "--array=0-0", "--nodes=2"} <= set(asked(several))
    assert "-m cli.torchrun --nnodes 2 --nproc-per-node 4" in several.text


@pytest.mark.parametrize(
    ("slurm", "told"),
    [
        ({"partition": "low\n#SBATCH --uid=0"}, r"\[slurm\] partition"),
        ({"account": "a b"}, "one word, without spaces"),
        ({"setup": ["module load x\nrm -r y"]}, "expected one line"),
        ({"sbatch": ["rm -r x"]}, "expected an option of sbatch"),
        ({"sbatch": ["--chdir=/tmp"]}, "gigamil sets it"),
        ({"sbatch": ["-J", "x"]}, "gigamil sets it"),
        ({"train": {"qos": "a;b\r"}}, r"\[slurm.train\]"),
        ({"time": "tomorrow"}, "expected minutes, hours"),
        ({"cpus": 0}, "1 or more"),
        ({"partitoin": "x"}, r"\[slurm\] partitoin is no key"),
        ({"extract": 3}, "expected a table"),
        ({"extract": {"nodes": 2, "jobs": 2}}, "nodes or jobs"),
    ],
)
def test_a_wrong_value_is_one_line(tmp_path: Path, slurm: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told) as error:
        scripts(cohort(tmp_path, **slurm))
    assert len(str(error.value).splitlines()) == 1


@given(st.text(max_size=30))
def test_no_text_makes_a_second_line(text: str) -> None:
    for check in (check_word, check_line, lambda own: check_directives((own,)), seconds_of):
        try:
            check(text)
        except RequestError:
            continue
        assert len(f"#SBATCH {text}".splitlines()) == 1


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("1:30", 90), ("2:00:05", 7205), ("1-0", 86400), ("1-12:30", 131400), ("2-00:00:01", 172801)],
)
def test_walltimes_are_those_of_sbatch(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


def test_a_dry_run_writes_nothing_and_wants_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cohort(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    made = submit(SubmitOptions(cohort=file.path, dry_run=True))
    assert [(own.job, own.after) for own in made if own.new] == [
        ("tile", ""), ("tile-workers", "after:TILE"), ("extract", "afterok:TILE"), ("train", "afterok:EXTRACT"),
    ]  # fmt: skip
    assert not file.folder.exists()
    assert jobs(file) == []
    with pytest.raises(RequestError, match="tile: sbatch: not found"):
        submit(SubmitOptions(cohort=file.path))


def test_a_rehearsal_can_be_required(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="rehearse"):
        submit(SubmitOptions(cohort=cohort(tmp_path).path, require_rehearsal=True, dry_run=True))


def test_the_page_names_every_key() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "slurm.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    known = {spec.key for spec in specs(SlurmSettings)}
    assert known <= set(re.findall(r"`(\w+)`", " ".join(rows)))
    file = tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1])["slurm"]  # type: ignore[index]
    for table in TABLES:
        settings_of(file, table)


def test_the_manifest_of_the_example_fits_the_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((Path(__file__).resolve().parents[3] / "examples/kubernetes/job.yaml").read_text("utf-8"))
    validate.validate(job, validate.latest_version(), strict=True)


def test_slurms_programs_without_a_cluster_are_told_in_one_short_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "squeue"
    fake.parent.mkdir()
    fake.write_text(
        "#!/bin/sh\n"
        "echo 'squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host' >&2\n"
        "echo 'squeue: fatal: Could not establish a configuration source' >&2\n"
        "exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    with pytest.raises(RequestError, match=r"^squeue: no cluster known here \(no slurm.conf\): run this on"):
        jobs(cohort(tmp_path), ask=True)
    assert jobs(cohort(tmp_path)) == [], "no script was written: nothing was submitted"
    assert any(own.new for own in submit(SubmitOptions(cohort=cohort(tmp_path).path, dry_run=True)))
    scripts = Path(scripts_folder(cohort(tmp_path)))
    scripts.mkdir(parents=True)
    (scripts / "tile.sh").touch()
    with pytest.raises(RequestError, match=r"^squeue: no cluster known here"):
        jobs(cohort(tmp_path))
