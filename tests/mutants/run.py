"""Are the tests able to fail? Small mistakes are made in the modules where a silent one costs most; tests must notice.

    make mutants                                   a random sample of each module's mutants
    python tests/mutants/run.py wsi/store/grid.py --all  every mutant of one module

cosmic-ray makes the mutants, in a copy of the tree. A mutant is killed when the module's nearest tests fail or do not
end. Survivors are printed with their line; some of them mean the same as the original.
"""

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEED = 20
SAMPLE = 30
"""Mutants of a module, unless all are asked for."""
TIMEOUT = 120.0
"""Seconds that the tests of one mutant may take."""
MODULES: dict[str, tuple[str, ...]] = {
    "wsi/store/grid.py": ("tests/wsi/store/test_grid.py",),
    "wsi/pixels/resample.py": ("tests/wsi/pixels/test_resample.py",),
    "wsi/recipe.py": ("tests/wsi/test_foundations.py",),
    "wsi/tiling/tile_recipe.py": ("tests/wsi/tiling/test_tile_recipe.py",),
    "wsi/store/pyramid.py": ("tests/wsi/store/test_level_writer.py", "tests/wsi/store/test_pyramid.py"),
    "wsi/tiling/finish.py": (
        "tests/wsi/store/test_pyramid.py",
        "tests/wsi/tiling/test_tiler.py",
        "tests/wsi/store/test_store.py",
    ),
    "wsi/pixels/colour.py": ("tests/wsi/pixels/test_colour_samples.py", "tests/wsi/pixels/test_colour_table.py"),
    "features/bags/bag.py": ("tests/features/bags/test_bag.py", "tests/features/bags/test_bag_door.py"),
    "features/bags/content.py": ("tests/features/bags/test_bag_door.py", "tests/features/bags/test_bag.py"),
    "mil/data/splits.py": ("tests/mil/data/test_splits.py",),
    "mil/ragged/packing.py": ("tests/mil/ragged/test_packing.py",),
    "mil/targets/metrics.py": ("tests/mil/targets/test_metrics.py", "tests/mil/evaluation/test_within_folds.py"),
    "mil/evaluation/calibrate.py": (
        "tests/mil/evaluation/test_calibration_fit.py",
        "tests/mil/evaluation/test_calibration.py",
    ),
    "mil/evaluation/oof.py": ("tests/mil/evaluation/test_calibration.py", "tests/mil/training/test_train.py"),
}
"""Each module, and the tests nearest to it, the quickest first."""
CONFIG = """
[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def mutate(module: str, tests: tuple[str, ...], most: int | None) -> tuple[int, list[str]]:
    """Return how many mutants of a module were tried, and the survivors: line, operator and change."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in listed.splitlines():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        config = CONFIG.format(module=module, timeout=TIMEOUT, python=sys.executable, tests=" ".join(tests))
        (tree / "mutants.toml").write_text(config)
        _cosmic_ray(tree, "init", "mutants.toml", "mutants.sqlite")
        _sample(tree / "mutants.sqlite", most)
        _cosmic_ray(tree, "exec", "mutants.toml", "mutants.sqlite")
        dump = _cosmic_ray(tree, "dump", "mutants.sqlite")
        found = [json.loads(line) for line in dump.splitlines()]
    done = [(item, result) for item, result in found if result is not None]
    survivors = [(item, result) for item, result in done if result["test_outcome"] == "survived"]
    return len(done), [_told(item["mutations"][0], result) for item, result in survivors]


def _cosmic_ray(tree: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "cosmic_ray.cli", *arguments]
    environment = {"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tree)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # a mutant of the same second and size would not be seen
    return subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def _sample(session: Path, most: int | None) -> None:
    """Keep a random sample of the mutants to be tried."""
    with sqlite3.connect(session) as base:
        place = "start_pos_row, start_pos_col, operator_name, occurrence"
        order = [row[0] for row in base.execute(f"select job_id from mutation_specs order by {place}")]
        dropped = random.Random(SEED).sample(order, max(0, len(order) - (most or len(order))))
        for table in ("mutation_specs", "work_items"):
            base.executemany(f"delete from {table} where job_id = ?", [(job,) for job in dropped])


def _told(mutation: dict[str, object], result: dict[str, str]) -> str:
    changed = [line for line in result["diff"].splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return f"line {mutation['start_pos'][0]}: " + "  =>  ".join(line[1:].strip() for line in changed)  # type: ignore[index]


def main() -> None:
    """Print the share of mutants killed by module, and every survivor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(MODULES))
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=SAMPLE)
    given = parser.parse_args()
    tried = survived = 0
    for module in given.modules:
        count, survivors = mutate(module, MODULES[module], None if given.all else given.sample)
        tried, survived = tried + count, survived + len(survivors)
        print(
            f"{module}: {count - len(survivors)} of {count} killed ({1 - len(survivors) / max(count, 1):.0%})",
            flush=True,
        )
        for line in survivors:
            print(f"    {line}", flush=True)
    print(f"all: {tried - survived} of {tried} killed ({1 - survived / max(tried, 1):.0%})")


if __name__ == "__main__":
    main()
