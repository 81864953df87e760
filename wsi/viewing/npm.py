"""Files of an npm package without npm: its tarball, checked against a hash that stands here.

Standard library alone: the build hook (``hatch_build.py``) loads this file before anything is installed.
``python -m wsi.viewing.npm`` fetches what an installation without a network lacks.
"""

import base64
import hashlib
import io
import os
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REGISTRY = "https://registry.npmjs.org/"
_SETTINGS = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
"""The environment's names for another registry, as npm reads them."""
_SECONDS = 60
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Package:
    """A package's tarball as npm's registry has it."""

    name: str
    version: str
    sha512: str
    """Of the tarball, base64, as npm's ``integrity`` gives it."""

    @property
    def address(self) -> str:
        """The tarball's URL: under ``npm_config_registry`` where that is set, else under npm's own registry."""
        registry = next((os.environ[own] for own in _SETTINGS if os.environ.get(own)), REGISTRY)
        return f"{registry.rstrip('/')}/{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"

    def read(self, *names: str) -> list[bytes]:
        """Fetch the tarball and return files of it, by their paths in the package.

        Raises
        ------
        OSError
            It cannot be fetched, is not the one that was pinned, or lacks a file.
        """
        address = self.address
        if not address.startswith(("https://", "http://")):
            raise OSError(f"npm registry {address}: expected an https:// address")
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            data = answer.read(_MOST_BYTES)
        found = base64.b64encode(hashlib.sha512(data).digest()).decode()
        if found != self.sha512:
            raise OSError(f"{address}: expected sha512 {self.sha512}, found {found}: nothing of it is used")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            return [_member(tar, f"package/{name}") for name in names]


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise OSError(f"the tarball holds no file {name}")
    return file.read()


OPENSEADRAGON = Package(
    "openseadragon",
    "6.1.1",
    "g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw==",
)
TARGET = Path("wsi") / "viewing" / "frontend" / "openseadragon.min.js"
"""From the tree's root."""


def fetch_openseadragon(root: Path) -> Path:
    """Write OpenSeadragon into a tree, unless it is there in this version; its licence's text stands on top of it.

    Raises
    ------
    OSError
        It cannot be fetched, or is not what was pinned.
    """
    path = root / TARGET
    first = f"/*! OpenSeadragon {OPENSEADRAGON.version}\n"
    if path.is_file() and path.read_bytes().startswith(first.encode()):
        return path
    script, licence = OPENSEADRAGON.read("build/openseadragon/openseadragon.min.js", "LICENSE.txt")
    lines = [line for line in script.decode().splitlines() if not line.startswith("//# sourceMappingURL=")]
    text = f"{first}\n{licence.decode().strip()}\n*/\n" + "\n".join(lines) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text, "utf-8", newline="\n")
    temporary.replace(path)
    return path


def main(arguments: Sequence[str] = ()) -> int:
    """Fetch OpenSeadragon into the tree that this file lies in; return the exit code."""
    try:
        print(fetch_openseadragon(Path(__file__).resolve().parents[2]))
    except (OSError, tarfile.TarError) as error:
        print(f"OpenSeadragon cannot be fetched: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
