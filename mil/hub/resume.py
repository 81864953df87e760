"""Large files of the hub, into its cache, going on where a download was killed.

The hub's client goes on within one process only: after a kill it begins a file anew. Here what has come of a file
stands beside the cache's own blobs, and becomes one of them when its sha256 is right; the client then finds it there.
Files that the client takes from Xet storage are left to it.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mil.hub.address import Address, endpoint
from wsi.errors import RemoteError
from wsi.files.claim import claim
from wsi.files.regular import file_sha256

LEAST_BYTES = 10_000_000
"""Of a file, from which on it is worth it: the client's own steps are as large."""


def fetch_large(address: Address) -> None:
    """Put the large files of a repository's folder into the hub's cache."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    if constants.HF_HUB_OFFLINE:
        return
    api = HfApi(endpoint=endpoint())
    for own in api.list_repo_tree(address.repo, path_in_repo=address.folder or None, recursive=True):
        if isinstance(own, RepoFile) and own.lfs and own.size >= LEAST_BYTES:
            blob = _blobs(address) / own.lfs.sha256
            blob.parent.mkdir(parents=True, exist_ok=True)
            with claim(blob):
                if not blob.exists():
                    _fetch(address, own, blob)


def _blobs(address: Address) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=address.repo, repo_type="model"), "blobs")


def _fetch(address: Address, own: Any, blob: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(address.repo, own.path, endpoint=endpoint())
    about = get_hf_file_metadata(url)
    if _by_xet(about):
        return
    headers = build_hf_headers()
    if urlsplit(about.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a link to a store that is signed already, and of another host
    part = blob.with_name(f"{blob.name}.part")
    part.touch()
    with part.open("r+b") as file:
        there = file.seek(0, os.SEEK_END)
        http_get(about.location, file, resume_size=there, headers=headers, expected_size=own.size)
    if file_sha256(part) != blob.name:
        part.unlink()
        raise RemoteError(f"{address}: {own.path} came with other bytes than it has there: give the command again")
    part.replace(blob)


def _by_xet(about: Any) -> bool:
    from huggingface_hub import constants

    there = getattr(about, "xet_file_data", None) is not None and not constants.HF_HUB_DISABLE_XET
    return there and find_spec("hf_xet") is not None
