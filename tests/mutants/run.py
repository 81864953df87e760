"""Are the tests able to fail? Small mistakes are made in the modules where a silent one costs most; tests must notice.

    make mutants                                   a random sample of each module's mutants
    python tests/mutants/run.py wsi/store/grid.py --all  every mutant of one module

cosmic-ray makes the mutants, in a copy of the tree; `forked.py` runs the tests. A mutant is killed when the module's
nearest tests fail or do not end. Survivors are printed with their line; some of them mean the same as the original.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from forked import preload, run_tests

ROOT = Path(__file__).resolve().parents[2]
SEED = 20
SAMPLE = 30
"""Mutants of a module, unless all are asked for: each at a place of its own."""
MODULES: dict[str, tuple[str, ...]] = {
    "wsi/store/grid.py": ("tests/wsi/store/test_grid.py",),
    "wsi/pixels/resample.py": ("tests/wsi/pixels/test_resample.py",),
    "wsi/recipe.py": ("tests/wsi/test_foundations.py",),
    "wsi/tiling/tile_recipe.py": ("tests/wsi/tiling/test_tile_recipe.py",),
    "wsi/store/pyramid.py": ("tests/wsi/store/test_level_writer.py", "tests/wsi/store/test_pyramid.py"),
    "wsi/tiling/tasks/finish.py": (
        "tests/wsi/store/test_pyramid.py",
        "tests/wsi/tiling/test_tiler.py",
        "tests/wsi/store/test_store.py",
        "tests/wsi/tiling/test_source_pyramid.py",
    ),
    "wsi/pixels/colour.py": ("tests/wsi/pixels/test_colour_samples.py", "tests/wsi/pixels/test_colour_table.py"),
    "features/bags/bag.py": ("tests/features/bags/test_bag.py", "tests/features/bags/test_bag_door.py"),
    "features/bags/content.py": ("tests/features/bags/test_bag_door.py", "tests/features/bags/test_bag.py"),
    "features/folds.py": ("tests/mil/data/test_splits.py",),
    "mil/data/splits.py": ("tests/mil/data/test_splits.py",),
    "mil/ragged/packing.py": ("tests/mil/ragged/test_packing.py",),
    "mil/targets/metrics.py": (
        "tests/mil/targets/test_metrics.py",
        "tests/mil/evaluation/test_within_folds.py",
        "tests/mil/targets/test_targets.py",
    ),
    "mil/evaluation/calibrate.py": (
        "tests/mil/evaluation/test_calibration_fit.py",
        "tests/mil/evaluation/test_calibration.py",
    ),
    "mil/evaluation/oof.py": (
        "tests/mil/evaluation/test_calibration.py",
        "tests/mil/training/test_train.py",
        "tests/mil/targets/test_other_targets.py",
    ),
}
"""Each module, and the tests nearest to it, the quickest first."""
WITHOUT_A_NUMBER = re.compile(r"\b(strict|slots|frozen|kw_only|maxsize|stacklevel) *= *$")
"""Before a constant: it guards, or saves time or room, and no value hangs on it."""
SAME = ("Eq_Is", "NotEq_IsNot", "Is_Eq", "IsNot_NotEq")
"""Changes that mean the same for nearly all values."""


@dataclass(frozen=True)
class Mutant:
    """One small mistake."""

    operator: str
    """cosmic-ray's name of the change."""
    occurrence: int
    """Which of the places where that change can be made."""
    place: tuple[int, int]
    """Line and column."""


def mutants_of(source: str) -> Iterator[Mutant]:
    """List what can be changed in a module, but for annotations: those fail on import, whoever tests."""
    tree, lines = get_ast(source), source.splitlines()
    annotations = [node for node in ast_nodes(tree) if node.type in ("annassign", "tfpdef")]
    annotations += [node.annotation for node in ast_nodes(tree) if node.type == "funcdef" and node.annotation]
    spans = [_annotation(node) for node in annotations]
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.endswith(SAME):
            continue
        places = [start for node in ast_nodes(tree) for start, _ in operator().mutation_positions(node)]
        for occurrence, place in enumerate(places):
            before = lines[place[0] - 1][: place[1]]
            if not (WITHOUT_A_NUMBER.search(before) or any(start <= place < end for start, end in spans)):
                yield Mutant(name, occurrence, place)


def _annotation(node: object) -> tuple[tuple[int, int], tuple[int, int]]:
    if node.type in ("annassign", "tfpdef"):  # type: ignore[attr-defined]
        children = node.children  # type: ignore[attr-defined]
        node = next(after for before, after in pairwise(children) if before == ":")
    return node.start_pos, node.end_pos  # type: ignore[attr-defined]


def sampled(mutants: list[Mutant], most: int) -> list[Mutant]:
    """Choose at random, each at a place of its own: a sum can be mistaken in ten ways, and is one place."""
    chance = random.Random(SEED)
    places: dict[tuple[int, int], list[Mutant]] = {}
    for mutant in mutants:
        places.setdefault(mutant.place, []).append(mutant)
    chosen = chance.sample(sorted(places), min(most, len(places)))
    return [chance.choice(places[place]) for place in sorted(chosen)]


def mutate(module: str, tests: tuple[str, ...], most: int | None) -> tuple[int, int]:
    """Try a module's mutants, print the survivors; return how many were tried, and how many killed."""
    source = (ROOT / module).read_text()
    mutants = list(mutants_of(source))
    if most is not None:
        mutants = sampled(mutants, most)
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_tree(Path(folder))
        passed, seconds = run_tests(tree, tests, 600.0)
        if not passed:
            sys.exit(f"{module}: its tests fail or take 600 s without any mistake: {' '.join(tests)}")
        for mutant in mutants:
            mistaken = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
            (tree / module).write_text(mistaken)
            survived, _ = run_tests(tree, tests, 20.0 + 4 * seconds)
            killed += not survived
            if survived:
                print(f"    {module}:{told(mutant, source, mistaken)}", flush=True)
    return len(mutants), killed


def copy_of_tree(folder: Path) -> Path:
    """Copy what git lists into a folder."""
    tree = folder / "tree"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return tree


def told(mutant: Mutant, source: str, mistaken: str) -> str:
    """Tell a mutant in one line: where, what stood there, what stands there now."""
    pairs = zip(source.splitlines(), mistaken.splitlines(), strict=False)
    old, new = next(((old, new) for old, new in pairs if old != new), ("(end)", "(end)"))
    return f"{mutant.place[0]}: {old.strip()}  =>  {new.strip()}"


def main() -> None:
    """Print the share of mutants killed by module, and every survivor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(MODULES))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=SAMPLE)
    parser.add_argument("--tests", nargs="*", help="instead of the module's own (of one module)")
    given = parser.parse_args()
    preload(ROOT)
    tried = killed = 0
    for module in given.modules:
        tests = tuple(given.tests or MODULES[module])
        count, noticed = mutate(module, tests, None if given.all else given.sample)
        tried, killed = tried + count, killed + noticed
        print(f"{module}: {noticed} of {count} killed ({noticed / max(count, 1):.0%})", flush=True)
    print(f"all: {killed} of {tried} killed ({killed / max(tried, 1):.0%})")


if __name__ == "__main__":
    main()
