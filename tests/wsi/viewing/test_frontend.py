"""The front end's modules as one classic script, and where OpenSeadragon comes from."""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wsi.errors import RequestError
from wsi.viewing import frontend, npm

ROOT = Path(__file__).resolve().parents[3]


def test_modules_are_joined_in_the_order_of_their_imports() -> None:
    modules = {
        "main.js": 'import { two } from "./base/two.js";\nimport "./base/one.js";\nexport const told = two();\n',
        "base/two.js": 'import {\n  one,\n} from "./one.js";\n\nexport function two() {\n  return one + 1;\n}\n',
        "base/one.js": "export const one = 1;\n",
        "unused.js": "export const unused = 1;\n",
    }
    one, two = "// base/one.js\nconst one = 1;\n", "// base/two.js\nfunction two() {\n  return one + 1;\n}\n"
    told = "// main.js\nconst told = two();\n"
    assert frontend.join(modules) == f'"use strict";\n(() => {{\n{one}\n{two}\n{told}}})();\n'


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ('import "./main.js";\n', "circle: main.js -> other.js -> main.js"),
        ("const own = 2;\n", "two modules declare own"),
        ("export default 3;\n", "'export default 3;' is not a form"),
        ('import * as all from "./third.js";\n', "is not a form"),
        ('import "./gone.js";\n', "other.js imports gone.js, which is not there"),
    ],
)
def test_modules_that_cannot_be_joined_are_refused(other: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        frontend.join({"main.js": 'import "./other.js";\nconst own = 1;\n', "other.js": other})


def test_the_front_end_joins() -> None:
    script = frontend.app_js()
    assert "gigamil" in script
    assert not frontend._LEFT.search(script)


def test_a_missing_openseadragon_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frontend, "_FOLDER", tmp_path)
    with pytest.raises(RequestError, match=r"run `python -m wsi.viewing.npm` once"):
        frontend.openseadragon()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """A registry on this machine: the folder that it serves, and what is asked of it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    asked: list[str] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder, asked
        server.shutdown()
        thread.join()


def _tarball(folder: Path, files: dict[str, bytes]) -> npm.Package:
    """Put a package into the registry; return it with its hash."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    path = folder / "openseadragon" / "-" / "openseadragon-1.0.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(data.getvalue())
    return npm.Package("openseadragon", "1.0", base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode())


def test_openseadragon_is_fetched_once_with_its_licence(
    registry: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = b"//! openseadragon\nrun();\n//# sourceMappingURL=openseadragon.min.js.map"
    files = {"build/openseadragon/openseadragon.min.js": script, "LICENSE.txt": b"Copyright: them\n"}
    monkeypatch.setattr(npm, "OPENSEADRAGON", _tarball(registry[0], files))
    (tmp_path / npm.TARGET).parent.mkdir(parents=True)
    for _ in range(2):
        path = npm.fetch_openseadragon(tmp_path)
    assert path.read_text() == "/*! OpenSeadragon 1.0\n\nCopyright: them\n*/\n//! openseadragon\nrun();\n"
    assert registry[1] == ["/openseadragon/-/openseadragon-1.0.tgz"]
    assert [own.name for own in path.parent.iterdir()] == [path.name]


def test_another_tarball_than_the_pinned_one_is_not_used(registry: tuple[Path, list[str]], tmp_path: Path) -> None:
    package = _tarball(registry[0], {"a.js": b"a"})
    with pytest.raises(OSError, match="expected sha512 AAAA, found"):
        npm.Package(package.name, package.version, "AAAA").read("a.js")
    with pytest.raises(OSError, match="holds no file package/b"):
        package.read("b.js")


def test_a_wheel_is_built_without_a_network_and_warns(tmp_path: Path) -> None:
    """The hook as hatchling runs it, on a small tree, with a registry that nobody serves."""
    pytest.importorskip("hatchling")
    for name in ("hatch_build.py", "wsi/viewing/npm.py", "wsi/viewing/frontend/main.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    settings = (ROOT / "pyproject.toml").read_text()
    start, end = settings.index("[tool.hatch.build]"), settings.index("[tool.hatch.build.targets.wheel]")
    head = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "small"\n'
    tail = 'version = "1"\n[tool.hatch.build.targets.wheel]\npackages = ["wsi"]\n'
    (tmp_path / "pyproject.toml").write_text(head + tail + settings[start:end])
    (tmp_path / ".gitignore").write_text("/wsi/viewing/frontend/openseadragon.min.js\n")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    run = partial(subprocess.run, build, cwd=tmp_path, capture_output=True, text=True, check=True)
    offline = run(env={"PATH": "", "npm_config_registry": "http://127.0.0.1:9"})
    assert "`python -m wsi.viewing.npm`" in offline.stdout + offline.stderr
    assert _wheel(tmp_path) == ["main.js"]
    (tmp_path / npm.TARGET).write_text(f"/*! OpenSeadragon {npm.OPENSEADRAGON.version}\n")  # as a build before left it
    online = run(env={"PATH": "", "npm_config_registry": "http://127.0.0.1:9"})
    assert "npm" not in online.stdout + online.stderr
    assert _wheel(tmp_path) == ["main.js", "openseadragon.min.js"]


def _wheel(folder: Path) -> list[str]:
    import zipfile

    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        return sorted(Path(name).name for name in files.namelist() if "/frontend/" in name)
