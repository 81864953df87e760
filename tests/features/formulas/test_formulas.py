"""Every family of formulas keeps the contract: what a picture depends on, and that it stays what it was."""

import json
from pathlib import Path

import pytest
import torch
from making_formulas import golden_figures

from features.formulas import FORMULAS, formula
from wsi.errors import RequestError

SIZE_PX = 32
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
every_family = pytest.mark.parametrize("name", list(FORMULAS))


@every_family
def test_a_picture_depends_on_class_and_instance_and_not_on_the_batch(name: str) -> None:
    ids, instances = torch.tensor([3, 0, 7, 3, 5, 1, 2]), torch.tensor([1, 0, 9, 0, 2**40, 4, 1])
    drawn = formula(name, classes=8, seed=5)
    together = drawn.draw(ids, instances, SIZE_PX)
    again = formula(name, classes=8, seed=5)
    order = torch.tensor([6, 2, 4, 0, 5, 1, 3])
    for row in order.tolist():
        alone = again.draw(ids[row : row + 1], instances[row : row + 1], SIZE_PX)
        assert torch.equal(alone[0], together[row]), row
    assert torch.equal(again.draw(ids[order], instances[order], SIZE_PX), together[order])


@every_family
def test_pictures_are_whole_grey_levels_that_show_something(name: str) -> None:
    pictures = formula(name, classes=40, seed=1).draw(torch.arange(40), torch.zeros(40, dtype=torch.int64), SIZE_PX)
    assert pictures.shape == (40, 3, SIZE_PX, SIZE_PX)
    assert pictures.dtype == torch.float32
    levels = pictures * 255
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert pictures.flatten(1).std(1).min() > 0.02


@every_family
def test_classes_seeds_and_instances_differ(name: str) -> None:
    ids = torch.arange(12)
    first = formula(name, classes=12, seed=0).draw(ids, ids * 0, SIZE_PX)
    assert (first - formula(name, classes=12, seed=0).draw(ids, ids * 0 + 1, SIZE_PX)).abs().amax((1, 2, 3)).min() > 0
    assert (first - formula(name, classes=12, seed=1).draw(ids, ids * 0, SIZE_PX)).abs().amax((1, 2, 3)).min() > 0
    between = (first[:, None] - first[None]).abs().mean((2, 3, 4))
    assert between[~torch.eye(12, dtype=torch.bool)].min() > 0.001


@every_family
def test_a_golden_picture_stays_what_it_was(name: str) -> None:
    torch.testing.assert_close(torch.tensor(golden_figures(name)), torch.tensor(GOLDEN[name]), atol=0.01, rtol=0)


@every_family
def test_each_family_says_where_it_comes_from(name: str) -> None:
    spec = FORMULAS[name]
    assert any(year in spec.paper for year in ("20", "this project"))
    assert spec.draws
    assert spec.classes >= 1
    assert set(spec.parameters) >= {"class", "instance"}


def test_an_unknown_family_or_no_class_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"formula cubism: expected one of .*fractaldb"):
        formula("cubism", classes=10, seed=0)
    with pytest.raises(RequestError, match=r"0 classes of formula fractaldb: expected at least 1"):
        formula("fractaldb", classes=0, seed=0)


@pytest.mark.gpu
@every_family
def test_a_gpu_draws_what_it_drew_before(name: str) -> None:
    ids = torch.arange(8, device="cuda")
    drawn = formula(name, classes=8, seed=0)
    together = drawn.draw(ids, ids, 64)
    assert torch.equal(together, torch.cat([drawn.draw(ids[i : i + 1], ids[i : i + 1], 64) for i in range(8)]))
    assert (together.cpu() - drawn.draw(ids.cpu(), ids.cpu(), 64)).abs().mean() < 0.02
