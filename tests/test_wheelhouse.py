"""The wheels for a machine without a network suit each other: they are chosen by what the wheels themselves ask for."""

import importlib.util
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
_DEPENDENCIES = """[project]
dependencies = ["numcodecs>=0.1", "carrier>=1", "torch", "old; python_version < '3.12'"]
optional-dependencies = { more = ["further"] }
"""


@pytest.fixture
def wheelhouse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, for a project of its own, with an index of wheels made here."""
    spec = importlib.util.spec_from_file_location("wheelhouse", ROOT / ".ci" / "wheelhouse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text(_DEPENDENCIES)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return module


def wheel(folder: Path, name: str, number: str, *needs: str) -> None:
    """Write a wheel that holds nothing but what it says of itself."""
    told = [f"{name}-{number}.dist-info/{own}" for own in ("METADATA", "WHEEL", "RECORD")]
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as file:
        file.writestr(told[0], "\n".join(metadata) + "\n")
        file.writestr(told[1], "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(told[2], "".join(f"{own},,\n" for own in told))


def test_versions_suit_each_other(wheelhouse: ModuleType, tmp_path: Path) -> None:
    held = version("numcodecs")
    index, out = tmp_path / "index", tmp_path / "out"
    out.mkdir()
    wheel(index, "numcodecs", held)
    wheel(index, "numcodecs", "999.0", "grown>=2")  # what the newer one needs is not needed by ours
    wheel(index, "carrier", "1.0", "numcodecs>=900")
    wheel(index, "grown", "1.0")
    wheel(index, "grown", "2.0")
    wheel(index, "further", "3.0", "lost>=1")
    missing = wheelhouse.collect("3.12", ["torch"], ["more"], out)
    names = sorted(own.name.partition("-py3")[0] for own in out.iterdir())
    assert names == ["carrier-1.0", "further-3.0", "grown-2.0", "numcodecs-999.0"]
    assert missing == ["lost>=1"]


def test_this_environment_s_version_is_taken_where_nothing_speaks_against_it(
    wheelhouse: ModuleType, tmp_path: Path
) -> None:
    held = version("numcodecs")
    index, out = tmp_path / "index", tmp_path / "out"
    out.mkdir()
    wheel(index, "numcodecs", held)
    wheel(index, "numcodecs", "999.0")
    wheel(index, "carrier", "1.0", "numcodecs>=0.2", "torch>=5")
    assert wheelhouse.collect("3.12", ["torch"], [], out) == []
    assert sorted(own.name.partition("-py3")[0] for own in out.iterdir()) == ["carrier-1.0", f"numcodecs-{held}"]
