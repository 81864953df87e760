"""Whoever is killed, and whenever: the same commands end with the same outputs, and nothing is left behind."""

import random
import time
from pathlib import Path

import pytest
from killing import Stage, content, left_behind, one_kill, slides_in, stages


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages in peace: ``slides``, ``tile``, ``extract``, ``train``."""
    folder = tmp_path_factory.mktemp("calm")
    slides_in(folder / "slides")
    for name, stage in stages(folder / "slides", folder / "tile", folder / "extract").items():
        stage.finish(folder / name)
    return folder


def every_victim(chain: dict[str, Stage]) -> list[tuple[str, str]]:
    return [(name, victim) for name, stage in chain.items() for victim in stage.victims]


def disturbed(calm: Path, folder: Path, rounds: list[tuple[str, str]], rng: random.Random) -> None:
    """Run each round's stage on what the last disturbed stage before it made; compare with the stage in peace."""
    slides = calm / "slides"
    latest = {"tile": calm / "tile", "extract": calm / "extract", "train": calm / "train"}
    for number, (name, victim) in enumerate(rounds):
        stage = stages(slides, latest["tile"], latest["extract"])[name]
        out, began = folder / f"{number:02d}-{name}", time.monotonic()
        told = one_kill(stage, victim, out, rng)
        print(f"{number}: {name}, {victim}: {told}; {time.monotonic() - began:.1f} s", flush=True)
        assert content(out) == content(calm / name)
        assert len(content(out)) > 2
        assert left_behind(out) == []
        latest[name] = out


def test_six_kills(calm: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    kinds = [("tile", "process"), ("tile", "tree"), ("extract", "process"), ("extract", "driver"), ("train", "process")]
    disturbed(calm, tmp_path, [*kinds, ("train", "tree")], rng)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_forty_kills(calm: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    kinds = every_victim(stages(Path(), Path(), Path()))
    rounds = [kinds[number % len(kinds)] for number in range(40)]
    rng.shuffle(rounds)
    disturbed(calm, tmp_path, rounds, rng)
