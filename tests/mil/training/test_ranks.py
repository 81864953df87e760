"""Several processes on one model: the gradient of one process, whatever the bags' sizes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commanding import workers_of
from hypothesis import given
from hypothesis import strategies as st
from rank_works import Case, gradients, ranked_gradients
from torch import nn
from witness import Witness

from features.started import RankEnd, run_ranks
from mil.targets.losses import Survivals
from mil.train import train
from mil.training.fit import new_model
from mil.training.jobs import FitJob, divide
from mil.training.loop import Loop
from mil.training.options import TrainOptions
from mil.training.processes import device_of_worker
from mil.training.ranks import Ranks
from mil.training.sampling import draw_batch
from mil.training.training_data import gather
from wsi.errors import BagError, ItemError, RequestError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    settings = {"folds": 2, "epochs": 3, "hidden": 16, "baselines": (), "dropout": 0.0, "device": "cpu"}
    return witness.options(out, **(settings | {"precision": "fp32"} | changes))


@pytest.fixture(scope="module")
def by_time(small: Witness, tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """The same slides with survival times."""
    return Witness(small.bags, survivors(small, tmp_path_factory.mktemp("times")))


def test_the_gradient_is_that_of_one_process_for_uneven_bags(small: Witness, by_time: Witness, tmp_path: Path) -> None:
    """Whatever is learnt: of survival, who is at risk does not depend on who computes it."""
    everything = {"max_rows": 60, "mixup": 1.0, "label_smoothing": 0.1, "max_tiles": 50}
    cases: list[Case] = [
        (quick(small, tmp_path / "run"), [0, 1, 2, 3, 4]),
        (quick(small, tmp_path / "run"), [3]),
        (quick(small, tmp_path / "run", **everything), [0, 1, 2, 3, 4, 5, 6]),
        (quick(small, tmp_path / "run", head="clam_sb"), [0, 1, 2]),
        (quick(by_time, tmp_path / "run", target="survival", max_rows=60), [0, 1, 2, 3, 4, 5]),
    ]
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    ends = run_ranks([partial(ranked_gradients, cases)] * 2, lambda message: found.update([message[1]]))
    assert [end.error for end in ends] == [None, None]
    assert sorted(found) == [(number, rank) for number in range(len(cases)) for rank in range(2)]
    for (number, _), grads in found.items():
        expected = gradients(*cases[number], Ranks())
        assert max(float(grad.abs().max()) for grad in expected) > 1e-3
        for grad, wanted in zip(grads, expected, strict=True):
            assert np.abs(grad - wanted.numpy()).max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def survivors(witness: Witness, folder: Path) -> Path:
    """A manifest of times and events for the witness's slides; ties among them."""
    lines = witness.manifest.read_text().splitlines()[1:]
    patients = sorted({line.split(",")[1] for line in lines})
    rng = np.random.default_rng(3)
    told = {patient: f"{rng.integers(1, 9)},{int(rng.random() < 0.7)}" for patient in patients}
    rows = [f"{image},{patient},{told[patient]}" for image, patient, *_ in (line.split(",") for line in lines)]
    (folder / "survival.csv").write_text("\n".join(["image_id,patient_id,time,event", *rows]) + "\n")
    return folder / "survival.csv"


def test_who_is_at_risk_does_not_depend_on_the_rows_on_the_device(by_time: Witness, tmp_path: Path) -> None:
    batch = [0, 1, 2, 3, 4, 5]
    plain = gradients(quick(by_time, tmp_path / "run", target="survival"), batch, Ranks())
    assert max(float(grad.abs().max()) for grad in plain) > 1e-3
    for max_rows in (1, 60):
        split = gradients(quick(by_time, tmp_path / "run", target="survival", max_rows=max_rows), batch, Ranks())
        for grad, wanted in zip(split, plain, strict=True):
            assert torch.allclose(grad, wanted, atol=1e-5)


def test_a_loss_over_parts_sees_one_dropout_twice(small: Witness, tmp_path: Path) -> None:
    """The loss that is told is that of the outputs whose gradient is taken: a step along it lowers it."""
    by_time = Witness(small.bags, survivors(small, tmp_path))
    options = quick(by_time, tmp_path / "run", target="survival", dropout=0.5, max_rows=1)
    data = gather(options)
    cohort = data.open()[0]
    job = FitJob(head=options.head, fold=0, seed=0, folder=options.out, options=options, recipe_hash="")
    parts = divide(cohort, data.folds, job)
    loop = Loop(job, cohort, parts, new_model(job, cohort, parts, Ranks()), Ranks())
    drawn = draw_batch(cohort, parts.train[:8], options, np.random.default_rng(0))
    truth, whose = loop._asked(drawn)[1], [cohort.patient_ids[own.slide] for own in drawn]
    assert isinstance(truth, Survivals)
    assert truth.patients_B is not None
    assert [truth.patients_B.tolist().index(own) for own in truth.patients_B.tolist()] == list(map(whose.index, whose))
    assert len(set(whose)) < len(whose), "slides of one patient are told"
    assert data.recipe()["risk_sets"] == "patients"

    def loss() -> float:
        torch.manual_seed(5)
        return loop._loss(loop.gradients(drawn))

    before = loss()
    grads = [p.grad.clone() for p in loop.model.parameters() if p.grad is not None]
    slope = sum(float((grad**2).sum()) for grad in grads)
    step = 1e-3
    with torch.no_grad():
        for parameter, grad in zip([p for p in loop.model.parameters() if p.grad is not None], grads, strict=True):
            parameter.sub_(step * grad)
    assert (before - loss()) / len(drawn) == pytest.approx(step * slope, rel=0.05)


@given(st.lists(st.integers(0, 10**6), max_size=40), st.integers(1, 5))
def test_every_bag_goes_to_one_rank(sizes: list[int], world: int) -> None:
    shares = [Ranks(rank, world).share(sizes) for rank in range(world)]
    assert sorted(position for share in shares for position in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    rows = [sum(sizes[position] for position in share) for share in shares]
    assert max(rows) - min(rows) <= max(sizes, default=0)


def test_alone_nothing_is_changed() -> None:
    (parameter,) = nn.Linear(1, 1, bias=False).parameters()
    parameter.grad = torch.tensor([[3.0]])
    Ranks().average_gradients([parameter])
    assert parameter.grad.item() == 3.0
    assert Ranks().total(np.array([1.5]))[0] == 1.5


@pytest.mark.slow
def test_two_processes_reach_the_scores_of_one(small: Witness, tmp_path: Path) -> None:
    one, two = quick(small, tmp_path / "one"), quick(small, tmp_path / "two", nproc=2)
    train(one)
    summary = train(two)
    assert summary.exit_code == 0
    histories = []
    for out in (one.out, two.out):
        assert not list(out.rglob("checkpoint*"))
        text = (out / "fold1" / "seed0" / "history.csv").read_text().splitlines()
        histories.append([[float(v) for v in line.split(",")] for line in text[1:]])
    assert np.allclose(histories[0], histories[1], atol=1e-4)
    assert one.recipe() == two.recipe()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_named_from_whichever_rank(small: Witness, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"loss of bag \d{4}_\d.* is not finite"):
        train(quick(small, tmp_path / "run", lr=1e30, nproc=2))


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run_and_the_next_one_goes_on(small: Witness, tmp_path: Path) -> None:
    options = quick(small, tmp_path / "run", epochs=40, nproc=2)
    undisturbed = replace(options, out=tmp_path / "undisturbed")
    train(undisturbed)
    program = (
        "from pathlib import Path; from mil.train import train; from mil.training.options import TrainOptions\n"
        f"if __name__ == '__main__':\n    train({options!r})"
    ).replace("PosixPath", "Path")
    script = tmp_path / "program.py"
    script.write_text(program)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (options.out / "fold0" / "seed0" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "was stopped by signal 9" in told or "gloo" in told.lower() or "Connection" in told
    assert not (options.out / "report.html").exists()
    train(options)
    for name in ("oof.csv", "fold0/seed0/weights.safetensors"):
        assert (options.out / name).read_bytes() == (undisturbed.out / name).read_bytes()


def test_under_torchrun_all_train_together_and_the_first_one_writes(small: Witness, tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = tmp_path / "gigamil.py"
    script.write_text("from cli.app import main\n\nif __name__ == '__main__':\n    main()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += ["train", str(small.bags), "--manifest", str(small.manifest), "--out", str(out), "--folds", "2"]
    command += ["--epochs", "3", "--hidden", "16", "--device", "cpu", "--dropout", "0"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: 4 done") == 1
    together = json.loads((out / "metrics.json").read_text())["models"]["gated_abmil"]
    alone = quick(small, tmp_path / "alone", attention=64, lr=1e-3, baselines=("mean_pool",))
    train(alone)
    found = json.loads((alone.out / "metrics.json").read_text())["models"]["gated_abmil"]
    assert together["weighted_log_loss"]["value"] == pytest.approx(found["weighted_log_loss"]["value"], abs=1e-4)


def test_gpus_are_used_in_turn() -> None:
    assert [device_of_worker("cuda", worker, 2) for worker in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert device_of_worker("cuda:1", 0, 2) == "cuda:1"
    assert device_of_worker("cuda", 3, 1) == "cuda"
    assert device_of_worker("cpu", 3, 0) == "cpu"


def test_a_dead_process_is_one_line(small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mil.training import processes

    monkeypatch.setattr(processes, "run_ranks", lambda work, hear, stall: [RankEnd(0, 0), RankEnd(1, -9)])
    with pytest.raises(ItemError, match=r"rank 1 was stopped by signal 9.*fewer --nproc"):
        train(quick(small, tmp_path / "run", nproc=2))
    monkeypatch.setenv("RANK", "0")
    for name, value in {"WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match="torchrun excludes"):
        train(quick(small, tmp_path / "other", nproc=2))
