"""The Hugging Face hub as a source of weights: its client, kept from long waits, and its refusals in one line."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import GatedRepoError

from wsi.errors import RequestError


@contextmanager
def quick_without_network() -> Iterator[None]:
    """Let the hub's client use its cache alone where its host has no address: it would retry for a minute."""
    offline, logger = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    constants.HF_HUB_OFFLINE = offline or not _hub_has_address()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _hub_has_address() -> bool:
    if getproxies():
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT)).hostname
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def links(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def why_not_fetched(name: str, hub: str, error: Exception) -> str:
    """Return in one line why an encoder's published weights could not be had, and what to do."""
    if any(isinstance(link, GatedRepoError) for link in links(error)):
        return (
            f"encoder {name}: its weights are gated and this account may not have them: accept the terms on the page "
            f"of {hub} at the Hugging Face hub, then set HF_TOKEN or run hf auth login; or give a local file by "
            "--weights FILE"
        )
    told = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return (
        f"encoder {name}: could not get the published weights ({type(error).__name__}: {told}): without a "
        f"network, copy the hub's cache of {hub} here (HF_HOME) or give its file by --weights FILE; or "
        "take random weights, for untrained features"
    )


def fetched(name: str, hub: str, file: str) -> Path:
    """Return a file of a repository of the hub, from its cache or fetched; `RequestError` where it cannot be had."""
    try:
        with quick_without_network():
            return Path(hf_hub_download(hub, file))
    except Exception as error:  # huggingface_hub, urllib and httpx share no base class
        raise RequestError(why_not_fetched(name, hub, error)) from error
