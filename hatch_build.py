"""The build hook: OpenSeadragon, which the pages for pathologists need, comes from npm's registry into the wheel."""

import importlib.util
import sys
import tarfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Frontend(BuildHookInterface):  # type: ignore[type-arg]
    """Fetch OpenSeadragon before a wheel (an editable one, too) or a source distribution is made of the tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Go on without it where there is no network: only pages and viewer need it, and they say what to do."""
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("gigamil_npm", root / "wsi" / "viewing" / "npm.py")
        assert spec is not None
        assert spec.loader is not None
        npm = importlib.util.module_from_spec(spec)
        sys.modules["gigamil_npm"] = npm  # dataclasses look their module up
        spec.loader.exec_module(npm)
        try:
            npm.fetch_openseadragon(root)
        except (OSError, tarfile.TarError) as error:
            self.app.display_warning(
                f"OpenSeadragon was not fetched ({error}): `gigamil page` and `gigamil view` will not work until "
                "`python -m wsi.viewing.npm` has been run with a network"
            )
