"""Heads and slide readers of other packages: found by their entry points, imported only when they are asked for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mil.heads import HeadSpec, has_attention, head_class, make_head
from mil.heads import check_head as check_name
from mil.heads.contract import check_head
from mil.models.model import BagModel, load_model, save_model
from mil.training.options import TrainOptions
from mil.training.tune_options import TuneOptions
from wsi.errors import RequestError, UnreadableSlideError
from wsi.qc.options import InfoOptions
from wsi.readers.contract import check_reader
from wsi.slide import READERS, open_slide
from wsi.units import Box

HEAD = """
from mil.heads.abmil import GatedAbmil
from mil.heads.mean_pool import MeanPool

class Ours(MeanPool):
    about = "a head of another package"
"""
READER = """
from pathlib import Path

from wsi.errors import UnreadableSlideError
from wsi.readers.tiff.reader import open_with_tiff

def open_odd(path, opening):
    if not path.read_bytes().startswith(b"odd"):
        raise UnreadableSlideError("it does not begin with odd")
    return open_with_tiff(Path(path.read_text()[4:]), opening)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a head, a reader, and one of each that is broken."""
    folder = tmp_path / "site"
    info = folder / "gigamil_plugins_of_test-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "gigamil_head_of_test.py").write_text(HEAD)
    (folder / "gigamil_reader_of_test.py").write_text(READER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gigamil-plugins-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gigamil.heads]\nours = gigamil_head_of_test:Ours\nodd = gigamil_head_of_test:__name__\n"
        "[gigamil.readers]\nodd = gigamil_reader_of_test:open_odd\nbroken = gigamil_reader_that_is_not_there:open\n"
    )
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("installed")
def test_a_head_of_another_package(tmp_path: Path) -> None:
    spec = HeadSpec(name="ours", dim=5, n_classes=2)
    assert make_head(spec).about == "a head of another package"
    assert not has_attention("ours")
    model = BagModel(spec).eval()
    save_model(tmp_path, model, {})
    rows = torch.ones(3, 5)
    assert torch.equal(load_model(tmp_path)[0](rows, (0, 3)).logits_BC, model(rows, (0, 3)).logits_BC)
    with pytest.raises(RequestError, match=r"entry point odd of gigamil\.heads .*: expected a class that derives"):
        check_name("odd", "linear")
    with pytest.raises(RequestError, match=r"unknown head 'no': expected one of gated_abmil, .*, ours, odd"):
        check_name("no", "linear")


@pytest.mark.usefixtures("installed")
def test_what_others_add_is_a_choice_of_options_and_keeps_the_contracts(tmp_path: Path, deflate_slide: Path) -> None:
    cohort = {"bags": (tmp_path,), "manifest": tmp_path / "a.csv", "out": tmp_path / "run"}
    options = TrainOptions(**cohort, head="ours", baselines=("ours", "mean_pool"))  # type: ignore[arg-type]
    assert (options.head, options.baselines) == ("ours", ("ours", "mean_pool"))
    assert TuneOptions(**cohort, heads=("dsmil", "ours")).train.head == "dsmil"  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"--heads no: expected one of gated_abmil, .*, transformer, ours, odd"):
        TuneOptions(**cohort, heads=("no",))  # type: ignore[arg-type]
    asked = InfoOptions(slides=(deflate_slide,), reader="odd")  # type: ignore[arg-type]
    assert str(asked.reader) == "odd"
    with pytest.raises(RequestError, match=r"--reader no: expected .*, openslide, odd, broken"):
        InfoOptions(slides=(deflate_slide,), reader="no")  # type: ignore[arg-type]
    check_head(head_class("ours"))
    slide = tmp_path / "a.odd"
    slide.write_text(f"odd {deflate_slide}")
    check_reader(lambda path, opening: open_slide(path, "odd", threads=opening.threads), slide)


def test_a_head_whose_package_is_gone_is_told() -> None:
    with pytest.raises(RequestError, match="unknown head 'ours'"):
        make_head(HeadSpec(name="ours", dim=5, n_classes=2))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("reader", [None, "odd"])
def test_a_reader_of_another_package_is_asked_last(tmp_path: Path, deflate_slide: Path, reader: str | None) -> None:
    slide = tmp_path / "a.odd"
    slide.write_text(f"odd {deflate_slide}")
    opened, whole = open_slide(slide, reader), open_slide(deflate_slide)
    box = Box(10, 20, 300, 200)
    np.testing.assert_array_equal(opened.read(0, box), whole.read(0, box))
    assert ("tiff: " in opened.chosen_because) == (reader is None)
    assert open_slide(deflate_slide).reader == "tiff"


@pytest.mark.usefixtures("installed")
def test_readers_that_cannot_be_had_are_named(tmp_path: Path, deflate_slide: Path) -> None:
    nothing = tmp_path / "nothing.odd"
    nothing.write_text("neither one nor the other")
    with pytest.raises(UnreadableSlideError, match=r"odd: it does not begin.*broken: entry point broken .* cannot be"):
        open_slide(nothing)
    with pytest.raises(UnreadableSlideError, match=r"entry point broken of gigamil\.readers"):
        open_slide(deflate_slide, "broken")
    with pytest.raises(RequestError, match=f"expected one of {', '.join(READERS)}, odd, broken"):
        open_slide(shutil.copy(deflate_slide, tmp_path / "a.tif"), "no")
