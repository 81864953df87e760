"""The Python door: what is public, what it costs to import, and that the pages that show it run as they stand."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import features
import mil
import wsi
from features.encoders.registry import build_encoder
from sample_data.make import make_cohort
from sample_data.options import SampleOptions
from wsi.store.tile_store import TileStore

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "python.md"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PACKAGES = ("wsi", "features", "mil")
HEAVY = {"torch", "zarr", "dask", "distributed", "pandas", "numpy", "cv2", "h5py", "sklearn", "timm", "matplotlib"}
ARRAY = re.compile(r"\b(NDArray|Tensor|RGB|Features|Floats|Ints|Rows)\b")
SHAPE = re.compile(r"\(\w+,[ \w,]*\)")
DESCRIBED_IN_THE_PROTOCOL = {"close"}


def names_of(package: str) -> list[str]:
    """The names in a package's stub."""
    nodes = ast.parse((ROOT / package / "__init__.pyi").read_text("utf-8")).body
    assert all(isinstance(node, ast.ImportFrom) and node.level == 1 for node in nodes)
    return [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]


PUBLIC = [(package, name) for package in PACKAGES for name in names_of(package)]


def test_a_stub_is_what_the_package_says_of_itself() -> None:
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert sorted(names_of(package)) == sorted(module.__all__) == sorted(dir(module))


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_is_there_and_described(package: str, name: str) -> None:
    found = getattr(importlib.import_module(package), name)
    assert not isinstance(found, ModuleType), "the module of that name hides it"
    assert (found.__doc__ or "").strip()
    (node,) = ast.parse(inspect.getsource(found)).body
    parts = node.body if isinstance(node, ast.ClassDef) else [node]
    functions = [own for own in parts if isinstance(own, ast.FunctionDef) and own.name[0] != "_"]
    for own in functions:
        text = ast.get_docstring(own) or ""
        assert text or own.name in DESCRIBED_IN_THE_PROTOCOL or is_overload(own), own.name
        if ARRAY.search(ast.unparse(own.returns or ast.Constant(None))) and text:
            assert SHAPE.search(text), f"{own.name}: no shape is told"
    assert list(undescribed_arrays(node)) == []


def is_overload(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(own) == "overload" for own in node.decorator_list)


def undescribed_arrays(node: ast.AST) -> Iterator[str]:
    """The fields of a class that hold arrays and do not tell their shape."""
    fields = node.body if isinstance(node, ast.ClassDef) else []
    for field, below in pairwise(fields):
        if isinstance(field, ast.AnnAssign) and ARRAY.search(ast.unparse(field.annotation)):
            text = below.value if isinstance(below, ast.Expr) else None
            if not (isinstance(text, ast.Constant) and SHAPE.search(str(text.value))):
                yield ast.unparse(field)


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_a_public_name_is_shown(package: str, name: str) -> None:
    assert re.search(rf"`{name}`|{package}\.{name}\b", PAGE.read_text("utf-8"))


def test_importing_costs_nothing() -> None:
    program = (
        "import sys, time; before = set(sys.modules); began = time.process_time(); import wsi, features, mil; "
        "print(time.process_time() - began, *{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True) for _ in "123"]
    seconds, *loaded = min((run.stdout.split() for run in runs), key=lambda words: float(words[0]))
    assert not HEAVY & set(loaded)
    assert float(seconds) < 0.1


def test_a_module_does_not_hide_the_verb_of_its_name() -> None:
    program = (
        "import mil.train, mil.tune, mil.report.report, features.finetune.run, wsi.qc.sheet\n"
        "import features, mil, wsi\n"
        "for verb in (mil.train, mil.tune, mil.report, features.finetune, wsi.qc):\n"
        "    assert callable(verb), verb\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What follows works on the sample cohort, in a folder where the page's own code has run.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the page's blocks have run one after the other."""
    folder = tmp_path_factory.mktemp("door")
    summary = make_cohort(
        SampleOptions(out=folder / "demo" / "cohort", patients=12, shortest=1024, size=1280, workers=1)
    )
    assert summary.exit_code == 0
    source = PAGE.read_text("utf-8")
    space: dict[str, object] = {"__name__": "page"}
    torch.set_num_threads(1)
    with chdir(folder):
        for match in re.finditer(r"^```python\n(.*?)^```", source, re.DOTALL | re.MULTILINE):
            line = source[: match.start()].count("\n") + 1
            exec(compile("\n" * line + match[1], str(PAGE), "exec"), space)
        yield folder / "demo"


@pytest.fixture(scope="module")
def bag_paths(place: Path) -> list[Path]:
    return sorted((place / "bags").glob("*.h5"))


def test_the_page_runs_as_it_stands(place: Path) -> None:
    made = {"stores", "bags", "run", "qc", "export", "heatmaps", "submission.csv"}
    assert made <= {path.name for path in place.iterdir()}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(notebook: Path, place: Path, tmp_path: Path) -> None:
    told = json.loads(notebook.read_text("utf-8"))
    assert (told["nbformat"], told["metadata"]["kernelspec"]["name"]) == (4, "python3")
    code = [cell for cell in told["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in told["cells"]}) == len(told["cells"])
    assert sum(cell["cell_type"] == "markdown" for cell in told["cells"]) >= len(code) // 2
    program = "\n\n".join("".join(cell["source"]) for cell in code)
    import matplotlib
    from matplotlib import pyplot

    (tmp_path / "demo").symlink_to(place)
    matplotlib.use("agg")
    with chdir(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", FutureWarning)
        warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
        exec(compile(program, notebook, "exec"), {"__name__": "__main__", "display": lambda *_: None})
    pyplot.close("all")


def test_tiles_one_by_one_and_together(small_store: TileStore) -> None:
    every = small_store.read_tiles(range(len(small_store))).transpose(0, 2, 3, 1)
    assert np.array_equal(np.stack(list(small_store)), every)
    assert np.array_equal(small_store[-1], every[-1])
    with pytest.raises(IndexError):
        small_store[len(small_store)]
    table = small_store.tile_table()
    assert np.array_equal(table[["row", "column"]], small_store.tiles_yx)
    assert np.array_equal(table[["l0_y", "l0_x"]], small_store.coords_l0_yx())
    assert {"tissue", *small_store.scores} <= set(table)


@pytest.mark.parametrize("name", ["texture", "timm:test_convnext.r160_in1k"])
def test_encode_tiles_gives_the_rows_of_the_bag(name: str, small_store: TileStore, tmp_path: Path) -> None:
    seed = None if name == "texture" else 3
    options = features.ExtractOptions(
        stores=(Path(small_store.path),), out=tmp_path, encoder=name, random_weights=seed, device="cpu"
    )
    assert features.extract(options).exit_code == 0
    bag = features.read_bag(tmp_path / f"{small_store.image_id}.h5")
    torch.set_num_threads(1)
    encoder = features.encoder(name, random_weights=seed, device="cpu")
    tiles = small_store.read_tiles(range(len(small_store)))
    rows = encoder.encode_tiles(tiles)
    assert rows.dtype == np.float32
    assert np.array_equal(rows.astype(np.float16), bag.features_ND)
    as_tensor = encoder.encode_tiles(torch.from_numpy(tiles).permute(0, 2, 3, 1), batch_size=3)
    assert np.allclose(as_tensor, rows, atol=1e-5)
    assert np.array_equal(bag.l0_yx, small_store.coords_l0_yx())
    assert (bag.header.encoder, encoder.spec.dim) == (name, rows.shape[1])


def test_encode_tiles_tells_what_it_wants() -> None:
    encoder = features.TileEncoder(build_encoder("texture"), torch.device("cpu"), "fp32")
    for shape, dtype in (((2, 3, 64, 32), np.uint8), ((2, 3, 64, 64), np.float32), ((3,), np.uint8)):
        with pytest.raises(wsi.RequestError, match="expected uint8"):
            encoder.encode_tiles(np.zeros(shape, dtype))
    assert encoder.encode_tiles(np.zeros((64, 64, 3), np.uint8)).shape == (1, encoder.spec.dim)
    assert encoder.encode_tiles(np.zeros((0, 3, 64, 64), np.uint8)).shape == (0, encoder.spec.dim)


def test_a_data_set_of_tiles_is_what_the_stores_hold(small_store: TileStore, second_store: TileStore) -> None:
    stores = [small_store, second_store]
    tiles = features.TileDataset(stores)
    wanted = np.concatenate([store.read_tiles(range(len(store))) for store in stores])
    found, ids, rows = zip(*DataLoader(tiles, batch_size=7, num_workers=2), strict=True)
    assert np.array_equal(torch.cat(found), wanted)
    assert sum(ids, ()) == tuple(store.image_id for store in stores for _ in range(len(store)))
    assert torch.cat(rows).tolist() == [row for store in stores for row in range(len(store))]
    last = len(small_store)
    for index, place in ((0, (small_store, 0)), (last, (second_store, 0)), (-1, (second_store, len(second_store) - 1))):
        assert tiles.where(index) == place
        assert np.array_equal(tiles[index].pixels, place[0].read_tiles([place[1]])[0])
    with pytest.raises(IndexError):
        tiles[len(tiles)]


def test_a_data_set_of_tiles_in_new_processes(small_store: TileStore, second_store: TileStore) -> None:
    tiles = features.TileDataset([Path(small_store.path), str(second_store.path)], transform=half)
    loader = DataLoader(tiles, 5, shuffle=True, num_workers=2, multiprocessing_context="spawn")
    seen: dict[tuple[str, int], torch.Tensor] = {}
    for pixels, ids, rows in loader:
        assert pixels.dtype == torch.float32
        seen |= {(name, row): tile for name, row, tile in zip(ids, rows.tolist(), pixels, strict=True)}
    assert len(seen) == len(tiles) == len(small_store) + len(second_store)
    assert torch.equal(seen[second_store.image_id, 3], half(torch.from_numpy(second_store.read_tiles([3])[0])))


def half(tile: torch.Tensor) -> torch.Tensor:
    return tile.float() / 2


def test_a_batch_reads_each_store_once(
    small_store: TileStore, second_store: TileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = features.TileDataset([small_store, second_store])
    reads, read = [], TileStore.read_tiles

    def counted(store: TileStore, *arguments: Any, **named: Any) -> Any:
        reads.append(store)
        return read(store, *arguments, **named)

    monkeypatch.setattr(TileStore, "read_tiles", counted)
    next(iter(DataLoader(tiles, len(tiles), shuffle=True)))
    assert len(reads) == 2


def test_tiles_of_two_sizes_are_refused(small_store: TileStore, deflate_slide: Path, tmp_path: Path) -> None:
    options = wsi.TileOptions(slides=(deflate_slide,), out=tmp_path, assume_mpp=0.5, workers=0, tile_px=128)
    assert wsi.tile(options).exit_code == 0
    with pytest.raises(wsi.RequestError, match="one tile size"):
        features.TileDataset([small_store, tmp_path])
    with pytest.raises(wsi.RequestError, match="found none"):
        features.TileDataset([tmp_path / "nothing"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_of_bags_is_what_the_bags_hold(place: Path, workers: int) -> None:
    cohort = mil.BagDataset(place / "bags", place / "cohort" / "train.csv")
    loader = DataLoader(cohort, 4, num_workers=workers, collate_fn=cohort.collate)
    seen = 0
    for batch in loader:
        assert batch.offsets[-1] == len(batch.rows_ND) == len(batch.l0_yx)
        for number, image_id in enumerate(batch.image_ids):
            bag, part = features.read_bag(place / "bags" / f"{image_id}.h5"), slice(*batch.offsets[number : number + 2])
            assert np.array_equal(batch.rows_ND[part], bag.features_ND)
            assert np.array_equal(batch.l0_yx[part], bag.l0_yx)
            assert batch.patient_ids[number] == image_id.partition("_")[0]
            row = next(row for row in cohort.rows if row.image_id == image_id)
            assert cohort.classes[batch.labels_B[number]] == row.label
            seen += 1
    assert seen == len(cohort)


def test_a_data_set_of_bags_tells_what_is_wrong(place: Path, bag_paths: list[Path], tmp_path: Path) -> None:
    manifest = place / "cohort" / "train.csv"
    with pytest.raises(wsi.RequestError, match="are not among"):
        mil.BagDataset(bag_paths, manifest, classes=("CE", "other"))
    first = mil.BagDataset(bag_paths, manifest).rows[0].image_id
    (tmp_path / f"{first}.h5").write_bytes(b"no bag")
    with pytest.raises(wsi.GigamilError, match=first):
        mil.BagDataset(tmp_path, manifest)


def test_a_run_says_what_predict_writes(place: Path, bag_paths: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    mil.predict(mil.PredictOptions(run=(place / "run",), items=(place / "bags",), out=out))
    written = {line.split(",")[0]: line.split(",")[1:] for line in out.read_text().splitlines()}
    run = mil.load_run(place / "run")
    assert list(run.classes) == written.pop("patient_id")
    patients = [path.stem.partition("_")[0] for path in bag_paths]
    assert len(set(patients)) < len(patients)  # a patient with several slides is among them
    table = run.predict(list(bag_paths), patients)
    assert sorted(table.index) == sorted(written)
    assert np.allclose(table.loc[list(written)], np.array(list(written.values()), float), atol=1e-6)
    alone = next(path for path, own in zip(bag_paths, patients, strict=True) if patients.count(own) == 1)
    bag = features.read_bag(alone)
    for asked in (alone, str(alone), bag, bag.features_ND):
        told = run.predict(asked)
        assert tuple(told) == run.classes
        assert np.allclose(list(told.values()), np.array(written[alone.stem.partition("_")[0]], float), atol=1e-6)
    by_slide = run.predict([place / "bags"])
    assert list(by_slide.index) == [path.stem for path in bag_paths]
    assert np.allclose(by_slide.loc[alone.stem], list(run.predict(alone).values()), atol=1e-6)


def test_a_run_looks_where_the_heat_map_shows(place: Path) -> None:
    (drawn,) = (place / "heatmaps").glob("*.csv")
    rows = [line.split(",") for line in drawn.read_text().splitlines()[1:]]
    run, bag = mil.load_run(place / "run"), features.read_bag(place / "bags" / f"{drawn.stem}.h5")
    attention = run.attention(bag)
    assert attention.sum() == pytest.approx(1)
    assert np.allclose(attention, [float(row[4]) for row in rows], atol=1e-6)
    assert np.array_equal(bag.l0_yx, [[int(row[2]), int(row[3])] for row in rows])
    assert run.metrics == json.loads((place / "run" / "metrics.json").read_text())


def test_a_run_refuses_what_is_not_like_its_own(place: Path, bag_paths: list[Path], tmp_path: Path) -> None:
    run = mil.load_run(place / "run")
    with pytest.raises(wsi.RequestError, match="expected finite floats"):
        run.predict(np.zeros((4, 7), np.float32))
    with pytest.raises(wsi.RequestError, match="one for each"):
        run.predict([*bag_paths], ["somebody"])
    other = features.ExtractOptions(
        stores=(place / "stores",), out=tmp_path, encoder="timm:test_convnext.r160_in1k", random_weights=0, device="cpu"
    )
    assert features.extract(other).exit_code == 0
    with pytest.raises(wsi.RequestError, match="was not made like"):
        run.predict(tmp_path / bag_paths[0].name)
    with pytest.raises(wsi.GigamilError) as told:
        run.predict(tmp_path / "nothing.h5")
    assert "\n" not in str(told.value)
    with pytest.raises(wsi.RequestError, match="expected a run folder"):
        mil.load_run(tmp_path)
