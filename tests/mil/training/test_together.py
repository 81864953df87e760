"""Models trained in turns by one process: what comes out is what each comes to alone, whatever happens meanwhile."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from witness import Witness

from mil.train import train
from mil.training.options import TrainOptions
from mil.training.sampling import Drawn, shared_order
from wsi.errors import BagError, RequestError
from wsi.interrupt import Leaving


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    settings = {"folds": 2, "seeds": 2, "epochs": 6, "warmup_epochs": 1, "hidden": 16, "patience": 2, "batch_bags": 4}
    return witness.options(out, **(settings | {"instance_dropout": 0.1, "ema": 0.5} | changes))


@pytest.fixture(scope="module")
def alone(small: Witness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with its models one after the other."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(quick(small, out))
    return out


def contents(run: Path) -> dict[str, bytes]:
    """Return each file, but for the page, whose title is the folder's name, and what killed processes left."""
    found = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    return {name: data for name, data in found.items() if not re.search(r"report.html$|\.\d+\.partial$", name)}


def test_models_in_turns_are_those_of_one_by_one(small: Witness, alone: Path, tmp_path: Path) -> None:
    """Eight models: three at a time, so that a group spans folds and heads; then all, with another order of turns."""
    for together in (3, 8):
        out = tmp_path / f"{together}" / "run"
        train(quick(small, out, together=together))
        assert contents(out) == contents(alone)


def test_left_and_killed_in_the_middle_they_go_on_to_the_same_bits(
    small: Witness, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to leave, every model saves at the end of its epoch; killed, each goes on from its own checkpoint."""
    from mil.training import fit

    class Killed(BaseException):
        pass

    def dying(*args: object) -> Iterator[None]:
        write(*args)  # type: ignore[arg-type]
        if len(list(out.rglob("checkpoint.safetensors"))) > 2:
            raise Killed
        return iter(())

    write, out = fit.write_checkpoint, tmp_path / "run"
    asked = iter([False] * 11)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "asked_to_leave", lambda: next(asked, True))
        with pytest.raises(Leaving):
            train(quick(small, out, together=8))
    assert len(list(out.rglob("checkpoint.safetensors"))) == 8
    with monkeypatch.context() as patched:
        patched.setattr(fit, "write_checkpoint", dying)
        with pytest.raises(Killed):
            train(quick(small, out, together=4))
    train(quick(small, out, together=2))
    assert contents(out) == contents(alone)


def test_a_shared_order_is_the_same_for_all_and_the_result_the_same_alone(small: Witness, tmp_path: Path) -> None:
    outs = [tmp_path / name / "run" for name in ("alone", "together")]
    for out, together in zip(outs, (1, 4), strict=True):
        train(quick(small, out, order="shared", baselines=(), together=together, epochs=3))
    assert contents(outs[0]) == contents(outs[1])


def test_models_of_a_shared_order_want_a_slide_at_about_the_same_time(
    small: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first and the last reading of a slide in an epoch lie few other slides; by orders of their own, many."""
    read, log = Drawn.read, list[int]()

    def logged(self: Drawn, cohort: object) -> object:
        log.append(self.slide)
        return read(self, cohort)  # type: ignore[arg-type]

    monkeypatch.setattr(Drawn, "read", logged)

    def spread(order: str) -> float:
        log.clear()
        options = {"order": order, "baselines": (), "together": 4, "epochs": 1, "batch_bags": 1}
        train(quick(small, tmp_path / order, instance_dropout=0.0, **options))
        first = {slide: log.index(slide) for slide in log}
        last = {slide: len(log) - log[::-1].index(slide) for slide in log}
        return float(np.mean([last[slide] - first[slide] for slide in first if log.count(slide) > 1]) / len(log))

    assert spread("shared") < 0.25 < 0.4 < spread("own")


def test_an_order_is_a_permutation_and_parts_of_it_follow_it() -> None:
    whole = shared_order(np.arange(40), 40, 7, 3)
    assert sorted(whole.tolist()) == list(range(40))
    part = np.array([3, 5, 8, 22, 39])
    assert shared_order(part, 40, 7, 3).tolist() == [slide for slide in whole.tolist() if slide in part]
    assert shared_order(part, 40, 7, 4).tolist() != shared_order(part, 40, 7, 3).tolist()


def test_a_model_that_diverges_ends_the_run_by_its_name(small: Witness, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="is not finite"):
        train(quick(small, tmp_path / "run", lr=1e18, together=3))


@pytest.mark.parametrize("changes", [{"nproc": 2, "together": 2}, {"order": "shared", "balance": "sampling"}])
def test_what_excludes_each_other_is_refused(small: Witness, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        quick(small, tmp_path / "run", **changes)
