"""The front end's files as pages want them: its modules joined into one classic script, its style, and OpenSeadragon.

A page that is opened from a folder may load classic scripts only, so the ES modules of ``frontend/`` become one
function: in the order of their imports, without the words import and export. Names are unique across modules.
"""

import re
from functools import cache
from pathlib import Path, PurePosixPath

from wsi.errors import RequestError
from wsi.viewing import npm

_FOLDER = Path(__file__).with_name("frontend")
_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async |const |let |function|class ))", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_NAME = re.compile(r"^(?:async )?(?:const|let|function\*?|class) (\w+)", re.MULTILINE)


@cache
def assets() -> dict[str, bytes]:
    """Return the files of a page's ``assets`` folder by name.

    Raises
    ------
    RequestError
        OpenSeadragon is not there.
    """
    return {
        "app.js": app_js().encode(),
        "style.css": (_FOLDER / "style.css").read_bytes(),
        "openseadragon.min.js": openseadragon(),
    }


def slide_html() -> bytes:
    """Return ``slides/<image_id>/index.html``: the same for every slide, whose facts ``slide.js`` beside it tells."""
    return (_FOLDER / "slide.html").read_bytes()


def index_html() -> bytes:
    """Return ``index.html``; what it shows is told by ``cohort.js`` beside it."""
    return (_FOLDER / "index.html").read_bytes()


def openseadragon() -> bytes:
    """Return OpenSeadragon with its licence, or raise `RequestError`: the installation was made without a network."""
    path = _FOLDER / npm.TARGET.name
    if not path.is_file():
        raise RequestError(
            "OpenSeadragon, which shows slides in a browser, is missing: gigamil was installed without a network; "
            "run `python -m wsi.viewing.npm` once with one"
        )
    return path.read_bytes()


@cache
def app_js() -> str:
    """Return the front end as one classic script."""
    return join({path.relative_to(_FOLDER).as_posix(): path.read_text("utf-8") for path in _FOLDER.rglob("*.js")})


def join(modules: dict[str, str], entry: str = "main.js") -> str:
    """Return ES modules as one classic script.

    Parameters
    ----------
    modules
        Text by path. They import by relative path and by name, and export declarations, each word at a line's start.
    entry
        Where it begins; what it does not import, itself or through others, is left out.

    Raises
    ------
    ValueError
        Modules import in a circle, import or export in another way, or two declare one name.
    """
    parts = [_classic(name, modules[name]) for name in _ordered(modules, entry, (), [])]
    seen: set[str] = set()
    for own in _NAME.findall("\n".join(parts)):
        if own in seen:
            raise ValueError(f"two modules declare {own}: names are unique across the front end's modules")
        seen.add(own)
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _ordered(modules: dict[str, str], name: str, within: tuple[str, ...], done: list[str]) -> list[str]:
    """Add a module to those done, after what it imports; ``within`` are those that wait for it."""
    if name in within:
        raise ValueError(f"modules import in a circle: {' -> '.join((*within, name))}")
    if name not in modules:
        raise ValueError(f"{within[-1] if within else 'the entry'} imports {name}, which is not there")
    if name in done:
        return done
    for path in _IMPORT.findall(modules[name]):
        _ordered(modules, _resolved(name, path), (*within, name), done)
    done.append(name)
    return done


def _resolved(importer: str, path: str) -> str:
    parts: list[str] = []
    for part in (PurePosixPath(importer).parent / path).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(parts)


def _classic(name: str, text: str) -> str:
    text = _EXPORT.sub("", _IMPORT.sub("", text))
    if left := _LEFT.search(text):
        raise ValueError(f"{name}: {left[0]!r} is not a form that can be joined")
    return f"// {name}\n{text.strip()}\n"
