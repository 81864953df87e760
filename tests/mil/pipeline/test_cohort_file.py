"""COHORT.toml is read strictly: what stands there is what the verbs mean by it; whatever is wrong is one line."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.verbs.cohort_config import cohort_text
from mil.auto.rules import VERSION
from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.cohort.tables import AFTER, VERBS
from mil.rehearsal.options import Rehearsed, rehearsed_of
from mil.slurm.settings import SlurmSettings, settings_of
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.tiling.options import TileOptions

Read = Callable[..., CohortFile]
TOP = 'slides = ["slides"]\nmanifest = "train.csv"\n'


@pytest.fixture
def read(tmp_path: Path) -> Read:
    (tmp_path / "train.csv").write_text("image_id,patient_id,label\na_0,a,CE\nb_0,b,LAA\n")

    def read(text: str, top: str = TOP) -> CohortFile:
        (tmp_path / "c.toml").write_text(top + text)
        return read_cohort_file(tmp_path / "c.toml")

    return read


def test_a_short_file_is_a_whole_cohort(read: Read, tmp_path: Path) -> None:
    file = read("[tile]\nmpp = 1\n[train]\nfolds = 3\n")
    assert (file.name, file.folder) == ("c", tmp_path / "c")
    out: dict[str, Any] = {
        "slides": (tmp_path / "slides",),
        "manifest": tmp_path / "train.csv",
        "out": file.folder / "stores",
    }
    assert file.tile == TileOptions(**out, target_mpp=1.0)
    (extract,), (experiment,) = file.extract, file.experiments
    assert (extract.encoder, extract.out) == ("texture", file.folder / "bags" / "texture")
    assert experiment.options == TrainOptions(
        bags=(extract.out,),
        stores=(file.stores,),
        manifest=tmp_path / "train.csv",
        out=file.folder / "runs" / "texture-gated_abmil",
        folds=3,
    )
    assert (file.after, file.slurm, file.rehearse, file.new) == ({}, {}, {}, None)


def test_rules_choose_for_an_experiment_what_the_file_does_not_give(read: Read) -> None:
    """Where the bags are there; an experiment is one run, and its row says by which rules."""
    plain = read("[train]\nhidden = 64\n").experiments[0]
    one, other = read("[train]\nhidden = 128\n[grid]\nauto = [true]\nepochs = [60, 9]\n").experiments
    assert one.options.auto
    assert set(one.options.fixed) == {"hidden", "epochs", "repeats"}
    assert one.settings["auto"] is True
    assert one.recipe["train"]["auto"] == {"rules": VERSION, "fixed": ["epochs", "hidden", "repeats"]}
    assert len({plain.recipe_hash, one.recipe_hash, other.recipe_hash}) == 3
    assert "auto" not in plain.recipe["train"]


def test_the_grid_is_a_product_and_rows_come_first(read: Read) -> None:
    file = read(
        "[train]\nepochs = 7\n"
        '[[experiments]]\nname = "own"\nencoder = "uni"\npriority = 2\nhead = "clam_sb"\nepochs = 9\n'
        '[grid]\nencoder = ["uni", "texture"]\nhead = ["dsmil", "abmil"]\nlr = [1e-3, 3e-4]\n'
    )
    first, *grid = file.experiments
    assert (first.name, first.priority, first.options.head, first.options.epochs) == ("own", 2, "clam_sb", 9)
    assert [own.name for own in grid] == [
        f"{encoder}-{head}-lr={lr}"
        for encoder in ("uni", "texture")
        for head in ("dsmil", "abmil")
        for lr in ("0.001", "0.0003")
    ]
    assert {own.options.epochs for own in grid} == {7}
    assert [own.options.lr for own in grid[:2]] == [1e-3, 3e-4]
    assert [own.encoder for own in file.extract] == ["uni", "texture"]
    assert grid[0].options.bags == (file.folder / "bags" / "uni",)
    assert len({own.recipe_hash for own in file.experiments}) == 9


def test_names_stay_when_the_grid_grows(read: Read) -> None:
    small = read('[grid]\nhead = ["dsmil"]\n')
    large = read('[grid]\nencoder = ["texture", "uni"]\nhead = ["dsmil", "abmil"]\n')
    names = {own.name: own.recipe_hash for own in large.experiments}
    assert all(names[own.name] == own.recipe_hash for own in small.experiments)


@pytest.mark.parametrize(
    "change",
    [
        "[tile]\nmpp = 1\n",
        "[tile]\nassume_mpp = 1\n",
        '[extract]\nstain = "macenko"\n',
        "[train]\nepochs = 5\n",
        "manifest",
    ],
)
def test_what_shapes_a_result_is_in_its_hash(read: Read, tmp_path: Path, change: str) -> None:
    before = read("")
    if change == "manifest":
        (tmp_path / "train.csv").write_text("image_id,patient_id,label\na_0,a,LAA\nb_0,b,LAA\n")
        change = ""
    after = read(change)
    assert before.experiments[0].recipe_hash != after.experiments[0].recipe_hash
    assert before.content_hash != after.content_hash


@pytest.mark.parametrize(
    "change",
    [
        "[train]\nworkers = 2\n",
        '[slurm]\npartition = "gpu"\n',
        "[extract]\nnproc = 2\nbatch_size = 8\n",
        "# a comment\n",
    ],
)
def test_what_does_not_is_not(read: Read, change: str) -> None:
    before, after = read(""), read(change)
    assert before.experiments[0].recipe_hash == after.experiments[0].recipe_hash
    assert before.content_hash == after.content_hash


def test_slides_to_predict_are_tiled_as_the_cohort_is(read: Read, tmp_path: Path) -> None:
    file = read('[tile]\nmpp = 1\n[predict]\nmanifest = "test.csv"\n')
    assert file.new is not None
    assert (file.new.manifest, file.new.slides, file.new.target_mpp) == (tmp_path / "test.csv", file.slides, 1.0)
    assert file.tilings == (file.tile, file.new)
    file = read('[predict]\nslides = ["new"]\nexperiments = "all"\n')
    assert file.new is not None
    assert (file.new.manifest, file.new.slides) == (None, (tmp_path / "new",))
    assert file.chosen == {"predict": ("all",)}


def test_slides_that_are_trained_on_only_are_tiled_too(read: Read, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("image_id,patient_id,label\nc_0,c,Other\n")
    file = read('[[experiments]]\nname = "x"\nother = "other.csv"\nother_label = "CE"\n')
    assert [own.manifest for own in file.tilings] == [tmp_path / "train.csv", tmp_path / "other.csv"]


def test_weights_are_not_for_texture_beside_others(read: Read) -> None:
    file = read('[extract]\nencoder = ["texture", "timm:resnet10t"]\nrandom_weights = 3\n')
    assert [own.random_weights for own in file.extract] == [None, 3]


_SEEDS, _RATES = list(range(200)), [i / 1000 for i in range(1, 200)]
WRONG = [
    ("foldr = 'x'\n", "foldr is no key of a cohort file: did you mean folder?"),
    ("[tlie]\nmpp = 1\n", "[tlie] is no table of a cohort file: did you mean tile?"),
    ("tile = 3\n", "tile: expected a table [tile], found 3"),
    ("[experiments]\nhead = 'abmil'\n", "experiments: expected tables [[experiments]], found a table"),
    ("[tile]\ntile_pxx = 3\n", "[tile]: tile_pxx is no option of tile: did you mean tile_px?"),
    ("[tile]\nmpp = 1000\n", "[tile]: --mpp 1000.0: expected 0.05 to 20 um/px"),
    ("[tile]\nmpp = 'fine'\n", "[tile]: --mpp fine: expected 0.05 to 20 um/px"),
    ("[tile]\nroi_mode = 'replace'\n", "[tile]: --roi-mode replace: expected --roi beside it"),
    ("[tile]\nout = 'x'\n", "[tile]: out: leave it out: the cohort's folder decides it"),
    ("[tile]\nmanifest = 'x'\n", "[tile]: manifest: leave it out: manifest stands before the first table"),
    ("[train]\noverwrite = true\n", "[train]: overwrite: leave it out, and give --overwrite to `gigamil run`"),
    ("[train]\nrepeats = 3\n", "[train]: repeats: leave it out: a list of seeds in [grid]"),
    ("[train]\nhead = 'clam'\n", "[train]: --head clam: expected one of"),
    ("[train]\njobs = 3\n", "[train]: jobs is now workers"),
    ("[extract]\nencoder = 3\n", "[extract]: encoder: expected the name of an encoder, or a list of them, found 3"),
    ("[extract]\nencoder = ['textur']\n", "[extract]: encoder textur: expected texture, timm:<model>, or another"),
    ("[extract]\nencoder = 'uni+uni'\n", "[extract]: encoder uni+uni: expected different encoders, found one twice"),
    ("[extract]\nencoder = 'uni'\nweights = 'no.pt'\n", "no.pt does not exist: expected a file of weights"),
    ("[extract]\nencoder = ['uni', 'phikon']\nweights = 'no.pt'\n", "expected one encoder with it, found uni, phikon"),
    ("[grid]\nhead = 'abmil'\n", "[grid]: head: expected a list of values, found 'abmil'"),
    ("[grid]\nhead = []\n", "[grid]: head: expected a list of values, found []"),
    ("[grid]\nhead = ['abmi']\n", "[grid]: --head abmi: expected one of"),
    ("[grid]\nheads = ['abmil']\n", "[grid]: heads is no key of an experiment nor option of train: did you mean head?"),
    (
        f"[grid]\nseed = {_SEEDS}\nlr = {_RATES}\n",
        "39,800 experiments: expected 10,000",
    ),
    ("[grid]\nseed = [1, 1]\n", "[grid]: texture-gated_abmil-seed=1 is [grid]'s name, too"),
    ("[[experiments]]\nname = 'a/b'\n", "[[experiments]] a/b: name 'a/b': expected letters"),
    ("[[experiments]]\nname = '..'\n", "name '..': expected letters"),
    (
        "[[experiments]]\nname = 'x'\n[[experiments]]\nname = 'X'\n",
        "[[experiments]] X: X is [[experiments]] x's name, too",
    ),
    ("[[experiments]]\npriority = 'high'\n", "priority: expected a number, larger first, found 'high'"),
    ("[[experiments]]\nepoch = 3\n", "epoch is no key of an experiment nor option of train: did you mean epochs?"),
    (
        "[extract]\nencoder = ['uni', 'texture']\n[[experiments]]\nname = 'x'\n",
        "[[experiments]] x: expected encoder, one of uni, texture",
    ),
    (
        "[extract]\nencoder = 'uni'\n[[experiments]]\nencoder = 'unii'\n",
        "encoder unii is none of [extract]: did you mean uni?",
    ),
    ("[extract]\nencoder = ['uni', 'texture']\n[[experiments]]\nencoder = ['uni', 'texture']\n", "expected fusion ="),
    ("[predict]\n", "[predict]: expected slides or a manifest of new patients, found neither"),
    (
        "[predict]\nmanifest = 'x.csv'\nassume_mpp = 1\n",
        "[predict]: assume_mpp: leave it out: [tile] and [extract] hold",
    ),
    (
        "[heatmap]\nexperiments = 'bets'\n",
        "[heatmap]: experiments bets: expected best, all, or names of experiments: did you mean best?",
    ),
    ("[heatmap]\nall = true\nimage_id = ['a']\n", "[heatmap]: --all and --image-id exclude each other"),
    ("[report]\nannotation_class = ['x']\n", "[report]: --annotation-class: expected --annotations beside it"),
    ("[slurm\n", "expected TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[text.strip().replace("\n", " ")[:40] for text, _ in WRONG])
def test_a_wrong_file_is_one_line(read: Read, tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RequestError) as told:
        read(text)
    line = str(told.value)
    assert line.startswith(str(tmp_path / "c.toml"))
    assert expected in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ("", "expected slides and manifest before the first table, found none"),
        ("slides = []\nmanifest = 'train.csv'\n", "expected slides before the first table"),
        ("slides = 'x'\nmanifest = 'none.csv'\n", "c.toml, manifest: "),
        ("slides = 3\nmanifest = 'train.csv'\n", "slides 3: expected a path"),
        (TOP + "columns = 'id'\n", "c.toml: "),
    ],
)
def test_a_wrong_beginning_is_one_line(read: Read, top: str, expected: str) -> None:
    with pytest.raises(RequestError) as told:
        read("", top)
    assert expected in str(told.value)


def test_config_prints_a_file_that_is_read_back(read: Read, tmp_path: Path) -> None:
    text = cohort_text()
    assert set(tomllib.loads(text)) == {"name", "tile", "extract", "train"}
    filled = text.replace("# slides = (required)", 'slides = ["slides"]').replace(
        "# manifest = (required)", 'manifest = "train.csv"'
    )
    file = read(filled, "")
    short = read("", 'name = "c"\n' + TOP)
    assert (file.tile, file.extract, file.experiments) == (short.tile, short.extract, short.experiments)
    for verb in ("[[experiments]]", "[grid]", *(f"[{verb}]" for verb in AFTER)):
        assert f"\n# {verb}\n" in text


def test_what_config_prints_as_a_comment_is_taken_too(read: Read, tmp_path: Path) -> None:
    """Every table that is printed as a comment is one, with every key at its default, once its ``# `` is taken away."""
    whole = cohort_text()
    for verb in AFTER:
        start = whole.index(f"\n# [{verb}]\n") + 1
        part = whole[start:].partition("\n\n")[0]
        table = "\n".join(line[2:] for line in part.splitlines())
        own = tomllib.loads(table)[verb]
        own.pop("experiments")
        assert own
        if verb == "predict":
            table += '\nmanifest = "test.csv"\n'
        assert verb in read(table).after
        assert set(own) <= _keys(verb) | {"slides"}


def test_tables_of_other_verbs_are_printed_at_their_defaults(read: Read) -> None:
    def uncommented(name: str) -> str:
        return "\n".join(
            line[2:] for line in cohort_text().partition(f"\n# [{name}]\n")[2].partition("\n\n")[0].splitlines()
        )

    file = read(f"[slurm]\n{uncommented('slurm')}\n[rehearse]\n{uncommented('rehearse')}\n")
    assert set(file.slurm) >= {"partition", "time", "array", "setup"}
    assert settings_of(file.slurm, "after") == SlurmSettings()
    assert set(file.rehearse) >= {"share", "fp32"}
    assert rehearsed_of(file) == Rehearsed()


def _keys(verb: str) -> set[str]:
    from wsi.options import specs

    return {spec.key for spec in specs(VERBS[verb])}
