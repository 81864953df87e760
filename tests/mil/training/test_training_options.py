"""The options of training: each does what its paper says, leaves other runs as they were, and survives a kill."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from witness import Witness, train_killed_after_each_checkpoint

from mil.data.cohort import Cohort
from mil.ragged.randomness import Randomness
from mil.run.folder import MEASURED
from mil.run.scores import read_scores
from mil.targets import ClassTarget
from mil.train import train
from mil.training.methods.ema import WeightMean
from mil.training.methods.sharpness import ascended
from mil.training.methods.soft_targets import Distilled, Mixed, Smoothed
from mil.training.options import TrainOptions
from mil.training.sampling import draw_batch, epoch_order, slide_weights
from wsi.errors import RequestError

ROOT = Path(__file__).resolve().parents[3]
EVERYTHING = {
    "optimizer": "sam",
    "balance": "sampling",
    "label_smoothing": 0.1,
    "mixup": 0.4,
    "ema": 0.9,
    "instance_dropout": 0.2,
    "max_tiles": 40,
    "max_rows": 150,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    return witness.options(out, **({"folds": 2, "epochs": 8, "hidden": 16, "baselines": ()} | changes))


def some_options(**changes: object) -> TrainOptions:
    return TrainOptions(bags=(Path("b"),), manifest=Path("m"), out=Path("o"), **changes)  # type: ignore[arg-type]


def some_cohort(*sizes: int) -> Cohort:
    n = len(sizes)
    ids = tuple(f"s{i}" for i in range(n))
    bags = tuple(np.full((size, 3), i * 1000, np.float32) + np.arange(size)[:, None] for i, size in enumerate(sizes))
    return Cohort(ids, ids, (None,) * n, ClassTarget(np.arange(n) % 2, ("a", "b")), bags)


def parameters(*values: list[float]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value)) for value in values]


def test_sam_looks_where_the_loss_is_worst_and_comes_back() -> None:
    w, v = parameters([3.0, -4.0], [0.1])
    loss = (w**2).sum() / 2
    loss.backward()
    before = w.detach().clone()
    with ascended([w, v], 0.5):
        assert torch.allclose(w, torch.tensor([3.3, -4.4]))
        assert v.item() == pytest.approx(0.1)
        w.grad = None
        ((w**2).sum() / 2).backward()
    assert torch.equal(w.detach(), before)
    (grad,) = (parameter.grad for parameter in [w])
    assert grad is not None
    assert torch.allclose(grad, torch.tensor([3.3, -4.4]))


@pytest.mark.parametrize("grad", [float("nan"), float("inf"), 0.0])
def test_sam_moves_nothing_by_a_gradient_without_direction(grad: float) -> None:
    (w,) = parameters([1.0])
    w.grad = torch.tensor([grad])
    with ascended([w], 0.5):
        assert w.item() == 1.0


def test_both_passes_of_sam_draw_the_same_dropout() -> None:
    randomness = Randomness(torch.device("cpu"))
    first = torch.rand(4)
    randomness.replay()
    assert torch.equal(first, torch.rand(4))


def test_the_mean_of_the_weights_follows_its_formula_and_leaves_the_model_alone() -> None:
    model = nn.Linear(1, 1, bias=False)
    mean = WeightMean(model, 0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        nn.init.constant_(model.weight, value)
        mean.update()
        keep = min(0.5, (1 + step) / (10 + step))
        expected = value if step == 0 else keep * expected + (1 - keep) * value
    with mean.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8.0
    resumed = WeightMean(model, 0.5)
    resumed.restore({name: value.clone() for name, value in mean.values.items()}, mean.steps)
    for each in (mean, resumed):
        each.update()
    assert torch.equal(mean.values["weight"], resumed.values["weight"])


def test_no_decay_means_no_mean() -> None:
    mean = WeightMean(nn.Linear(1, 1), 0.0)
    mean.update()
    assert mean.values == {}


def test_smoothed_targets_are_those_of_torch() -> None:
    labels = np.array([0, 2, 1])
    truth = ClassTarget(labels, ("a", "b", "c")).batch(np.arange(3), "cpu")
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.2, reduction="none")
    assert torch.allclose(Smoothed(truth, 0.2).loss(logits), expected)
    assert Smoothed(truth, 0.2).classes_B is not None


def test_a_perfect_copy_of_the_teacher_has_no_loss_left() -> None:
    truth = ClassTarget(np.array([0, 1]), ("a", "b")).batch(np.arange(2), "cpu")
    teacher = torch.tensor([[2.0, -1.0], [0.5, 0.25]])
    assert torch.allclose(Distilled(truth, teacher, 1.0, 3.0).loss(teacher + 7), torch.zeros(2), atol=1e-6)
    other = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    expected = 9 * F.kl_div(
        F.log_softmax(other / 3, 1), F.log_softmax(teacher / 3, 1), reduction="none", log_target=True
    ).sum(1)
    half = Distilled(truth, teacher, 0.5, 3.0).loss(other)
    assert torch.allclose(half, 0.5 * truth.loss(other) + 0.5 * expected)


def test_a_mixture_weighs_each_bag_by_its_share() -> None:
    target = ClassTarget(np.array([0, 1]), ("a", "b"))
    logits = torch.tensor([[1.0, 3.0]])
    own, other = (target.batch(np.array([i]), "cpu") for i in (0, 1))
    mixed = Mixed(own, other, torch.tensor([0.7]), torch.tensor([0.3])).loss(logits)
    assert torch.allclose(mixed, 0.7 * own.loss(logits) + 0.3 * other.loss(logits))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 30), st.integers(0, 10**6))
def test_what_is_drawn_from_bags_is_theirs_without_repeats(sizes: list[int], most: int, seed: int) -> None:
    cohort = some_cohort(*sizes)
    options = some_options(max_tiles=most, instance_dropout=0.5, mixup=1.0)
    for bag in draw_batch(cohort, np.arange(len(sizes)), options, np.random.default_rng(seed)):
        rows = np.asarray(bag.read(cohort))
        assert len(rows) == len(bag) >= 1
        assert len(np.unique(rows[:, 0])) == len(rows)
        slides = set((rows[:, 0] // 1000).astype(int))
        assert slides == {bag.slide} | ({bag.partner.slide} if bag.partner else set())
        assert 0.5 <= bag.share <= 1
        assert bag.size <= (min(most, sizes[bag.slide]) if most else sizes[bag.slide])


def test_a_mixture_takes_instances_by_its_share() -> None:
    cohort = some_cohort(1000, 1000)
    options = some_options(mixup=1.0)
    bags = [bag for seed in range(20) for bag in draw_batch(cohort, np.arange(2), options, np.random.default_rng(seed))]
    mixed = [bag for bag in bags if bag.partner is not None]
    assert mixed
    assert all(bag.size == round(1000 * bag.share) and len(bag) in (999, 1000, 1001) for bag in mixed)


def test_instances_are_drawn_anew_each_time_and_alike_from_the_same_seed() -> None:
    cohort = some_cohort(500)
    options = some_options(max_tiles=50, instance_dropout=0.3)

    def drawn(seed: int) -> list[int]:
        (bag,) = draw_batch(cohort, np.array([0]), options, np.random.default_rng(seed))
        assert bag.rows is not None
        return list(bag.rows.tolist())

    assert drawn(1) == drawn(1) != drawn(2)
    assert 20 < len(drawn(1)) < 50


def test_sampling_draws_classes_alike() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    weights = slide_weights(labels, [str(i) for i in range(100)], 2)
    rng = np.random.default_rng(0)
    epochs = [epoch_order(np.arange(100), weights, "sampling", rng) for _ in range(50)]
    assert all(len(drawn) == 100 and abs(labels[drawn].sum() - 50) <= 1 for drawn in epochs)
    times = np.bincount(np.concatenate(epochs), minlength=100)
    assert set(np.bincount(epochs[0], minlength=100)[90:]) == {5}
    assert times[:90].min() > 0.3 * 50
    assert sorted(epoch_order(np.arange(100), weights, "weights", rng)) == list(range(100))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "sgd"),
        ("balance", "no"),
        ("label_smoothing", 1.0),
        ("mixup", -1.0),
        ("ema", 1.0),
        ("instance_dropout", float("nan")),
        ("track", ("csv",)),
        ("nproc", 0),
        ("distil_weight", 0.0),
        ("sam_rho", 0.0),
    ],
)
def test_a_wrong_option_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=field.replace("_", "-")):
        some_options(**{field: value})


def test_processes_on_one_model_and_models_side_by_side_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="--workers and --nproc"):
        some_options(workers=2, nproc=2)


def test_new_options_enter_the_recipe_only_where_they_are_used() -> None:
    plain = some_options().recipe()
    assert not set(EVERYTHING) - {"max_tiles", "max_rows"} & set(plain)
    used = some_options(**EVERYTHING).recipe()
    assert {name: used[name] for name in EVERYTHING if name != "max_rows"} == {
        name: value for name, value in EVERYTHING.items() if name != "max_rows"
    }
    assert some_options(nproc=2, track=("wandb",), teacher=Path("t")).recipe() == plain


@pytest.mark.parametrize("option", [name for name in EVERYTHING if name not in ("max_rows", "max_tiles")])
def test_each_option_changes_the_weights(small: Witness, plain: bytes, tmp_path: Path, option: str) -> None:
    assert weights(small, tmp_path / "run", **{option: EVERYTHING[option]}) != plain


def test_sam_that_looks_nowhere_is_adamw_dropout_included(small: Witness, plain: bytes, tmp_path: Path) -> None:
    assert weights(small, tmp_path / "run", optimizer="sam", sam_rho=1e-30) == plain


@pytest.fixture(scope="module")
def plain(small: Witness, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return weights(small, tmp_path_factory.mktemp("plain") / "run")


def weights(witness: Witness, out: Path, **changes: object) -> bytes:
    train(quick(witness, out, epochs=2, **changes))
    return (out / "fold0" / "seed0" / "weights.safetensors").read_bytes()


def test_with_everything_on_every_epoch_can_be_the_last_before_a_kill(small: Witness, tmp_path: Path) -> None:
    """The process ends right after each checkpoint, and the run still ends with the same bytes in every file."""
    options = quick(small, tmp_path / "a" / "run", **EVERYTHING)
    train(options)
    again = replace(options, out=tmp_path / "b" / "run")
    train_killed_after_each_checkpoint(again, 9)
    expected, found = ({p.relative_to(o.out): p.read_bytes() for p in o.out.rglob("*")
                        if p.is_file() and p.name not in MEASURED}
                       for o in (options, again))  # fmt: skip
    assert found == expected


@pytest.mark.slow
def test_killed_in_the_middle_with_everything_on_the_run_goes_on_to_the_same_bits(
    small: Witness, tmp_path: Path
) -> None:
    options = quick(small, tmp_path / "a" / "run", **EVERYTHING | {"epochs": 20})
    train(options)
    again = replace(options, out=tmp_path / "b" / "run")
    program = (
        "from pathlib import Path; from mil.train import train; from mil.training.options import TrainOptions\n"
        f"train({again!r})"
    ).replace("PosixPath", "Path")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=env)
    running = again.out / "fold1" / "seed0"
    deadline = time.monotonic() + 120
    while not (running / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (running / "model.json").exists(), "the kill came too late to prove anything"
    train(again)
    expected, found = ({p.relative_to(o.out): p.read_bytes() for p in o.out.rglob("*")
                        if p.is_file() and p.name not in MEASURED}
                       for o in (options, again))  # fmt: skip
    assert {name: data for name, data in found.items() if not name.name.endswith(".partial")} == expected


@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_in_float16_gradients_are_scaled_and_steps_are_taken(small: Witness, tmp_path: Path, optimizer: str) -> None:
    settings = {"optimizer": optimizer, "ema": 0.9, "epochs": 2}
    runs = {name: tmp_path / name for name in ("fp16", "fp32")}
    for precision, out in runs.items():
        train(quick(small, out, precision=precision, **settings))
    scores = {name: read_scores(out / "fold0" / "seed0" / "scores.csv").logits_SC for name, out in runs.items()}
    assert np.isfinite(scores["fp16"]).all()
    assert not np.array_equal(scores["fp16"], scores["fp32"])
    assert np.allclose(scores["fp16"], scores["fp32"], atol=0.05)


def test_with_everything_on_the_witnesses_are_still_found(tmp_path: Path, write_cohort: Callable[..., Witness]) -> None:
    witness = write_cohort(tmp_path / "bags")
    settings = {**EVERYTHING, "mixup": 0.0, "optimizer": "adamw", "instance_dropout": 0.05, "max_tiles": 0}
    train(witness.options(tmp_path / "run", folds=3, baselines=(), **settings))
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]
    assert found["gated_abmil"]["auc"]["value"] > 0.85
