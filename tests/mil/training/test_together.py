"""Models trained in turns by one process: what comes out is what each comes to alone, whatever happens meanwhile."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from witness import Witness

from mil.training.jobs import FitJob
from mil.training.options import TrainOptions, resolve
from mil.training.processes import fit_all
from mil.training.sampling import Drawn, shared_order
from mil.training.training_data import gather
from wsi.errors import BagError, RequestError
from wsi.machine.interrupt import Leaving


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    settings = {"folds": 2, "seeds": 2, "epochs": 6, "warmup_epochs": 1, "hidden": 16, "patience": 2, "batch_bags": 4}
    return witness.options(out, **(settings | {"instance_dropout": 0.1, "ema": 0.5} | changes))


def fitted(options: TrainOptions) -> dict[str, bytes]:
    """Train the models that are not whole, but make no report of them; return their files."""
    own, out = resolve(options), options.out
    data = gather(own)
    models = product(own.heads, range(own.folds), range(own.seeds))
    jobs = [
        FitJob(head=h, fold=f, seed=s, folder=out / f"{h}-{f}-{s}", options=own, recipe_hash="one")
        for h, f, s in models
    ]
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    fit_all([job for job in jobs if not job.is_whole], data.open(), data.folds, lambda job, _: told.append(job.name))
    assert len(told) == len(set(told)) > 0
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def alone(small: Witness, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The models, trained one after the other."""
    return fitted(quick(small, tmp_path_factory.mktemp("alone")))


def test_models_in_turns_are_those_of_one_by_one(small: Witness, alone: dict[str, bytes], tmp_path: Path) -> None:
    """Eight models: three at a time, so that a group spans folds and heads; then all, with another order of turns."""
    assert len([name for name in alone if name.endswith("weights.safetensors")]) == 8
    for together in (3, 8):
        assert fitted(quick(small, tmp_path / f"{together}", together=together)) == alone


def test_left_and_killed_in_the_middle_they_go_on_to_the_same_bits(
    small: Witness, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to leave, every model saves at the end of its epoch; killed, each goes on from its own checkpoint."""
    from mil.training import checkpoint, fit

    class Killed(BaseException):
        pass

    def dying(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        written.append(None)
        if len(written) > 5:
            raise Killed

    write, written = checkpoint.write_checkpoint, list[None]()
    asked = iter([False] * 11)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "asked_to_leave", lambda: next(asked, True))
        with pytest.raises(Leaving):
            fitted(quick(small, tmp_path, together=8))
    assert len(list(tmp_path.rglob("checkpoint.safetensors"))) == 8
    with monkeypatch.context() as patched:
        patched.setattr(fit, "write_checkpoint", dying)
        patched.setattr(fit, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(Killed):
            fitted(quick(small, tmp_path, together=4))
    assert fitted(quick(small, tmp_path, together=2)) == alone


@pytest.mark.slow
def test_in_processes_side_by_side_models_take_turns_too(
    small: Witness, alone: dict[str, bytes], tmp_path: Path
) -> None:
    assert fitted(quick(small, tmp_path, together=4, workers=2)) == alone


def test_a_shared_order_gives_the_same_alone_and_together(
    small: Witness, alone: dict[str, bytes], tmp_path: Path
) -> None:
    options = {"order": "shared", "epochs": 3}
    one, other = (fitted(quick(small, tmp_path / f"{n}", together=n, **options)) for n in (1, 4))
    assert one == other
    weights = "gated_abmil-0-0/weights.safetensors"
    assert one[weights] != alone[weights]


def test_models_of_a_shared_order_want_a_slide_at_about_the_same_time(
    small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first and the last reading of a slide lies little; by orders of their own, much."""
    read, log = Drawn.read, list[int]()

    def logged(self: Drawn, cohort: object) -> object:
        log.append(self.slide)
        return read(self, cohort)  # type: ignore[arg-type]

    monkeypatch.setattr(Drawn, "read", logged)

    def spread(order: str) -> float:
        log.clear()
        options = {"order": order, "baselines": (), "together": 4, "epochs": 1, "batch_bags": 1}
        fitted(quick(small, tmp_path / order, instance_dropout=0.0, **options))
        apart = [len(log) - log[::-1].index(slide) - log.index(slide) for slide in log if log.count(slide) > 1]
        return float(np.mean(apart) / len(log))

    shared, own = spread("shared"), spread("own")
    assert shared < own / 3, (shared, own)


def test_an_order_is_a_permutation_and_parts_of_it_follow_it() -> None:
    whole = shared_order(np.arange(40), 40, 7, 3)
    assert sorted(whole.tolist()) == list(range(40))
    part = np.array([3, 5, 8, 22, 39])
    assert shared_order(part, 40, 7, 3).tolist() == [slide for slide in whole.tolist() if slide in part]
    assert shared_order(part, 40, 7, 4).tolist() != shared_order(part, 40, 7, 3).tolist()


def test_a_model_that_diverges_ends_the_run_by_its_name(small: Witness, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="is not finite"):
        fitted(quick(small, tmp_path, lr=1e18, together=3))


@pytest.mark.parametrize("changes", [{"nproc": 2, "together": 2}, {"order": "shared", "balance": "sampling"}])
def test_what_excludes_each_other_is_refused(small: Witness, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        quick(small, tmp_path / "run", **changes)
