"""Can published weights be had: what is cached here, is there a token; asked for, what the hub says to it."""

import os
from collections.abc import Iterator
from typing import Any

from mil.watching.doctor.finding import Finding, judged

_SECONDS = 10
_NAMED = 6


def hub(*, online: bool) -> Iterator[Finding]:
    """Look at the cache and the token; with ``online``, ask the hub."""
    yield cached()
    yield token()
    if online:
        yield from asked()


def cached() -> Finding:
    """Name the models whose files are here."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    from huggingface_hub.errors import CacheNotFound

    mode = "; HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else ""
    try:
        repos = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        repos = []
    if not repos:
        return judged("hub's cache", f"{HF_HUB_CACHE}: no model{mode}; the texture encoder and --weights need none")
    names = [repo.repo_id for repo in repos]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    size = sum(repo.size_on_disk for repo in repos) / 1e9
    return judged("hub's cache", f"{HF_HUB_CACHE}: {', '.join(names[:_NAMED])}{more} ({size:.1f} GB){mode}")


def token() -> Finding:
    """Tell whether there is a token; never which."""
    from huggingface_hub import get_token

    if get_token() is None:
        return judged("hub's token", "none: enough for open encoders (gated ones want HF_TOKEN or hf auth login)")
    return judged("hub's token", f"there is one ({'HF_TOKEN' if os.environ.get('HF_TOKEN') else 'hf auth login'})")


def asked() -> Iterator[Finding]:
    """Ask the hub who we are, and which gated encoders it would give us."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    api: Any = HfApi()
    try:
        name = api.whoami(cache=False)["name"] if get_token() else ""
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            yield Finding("hub", "wrong", f"{api.endpoint} refuses the token", "make a new one: hf auth login")
            return
        yield _unreachable(api.endpoint, error)
        return
    except Exception as error:  # the network: httpx, socket, ssl ...
        yield _unreachable(api.endpoint, error)
        return
    yield judged("hub", f"{api.endpoint} knows {name}" if name else f"{api.endpoint}: not asked, without a token")
    if name:
        yield gated(api)


def _unreachable(endpoint: str, error: Exception) -> Finding:
    why = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Finding(
        "hub", "wrong", f"{endpoint} does not answer: {why}", "see proxy and network; offline, copy the cache"
    )


def gated(api: Any) -> Finding:
    """Tell which gated encoders are open to the token."""
    from huggingface_hub.errors import HfHubHTTPError

    from features.encoders.presets import PRESETS

    closed, opened = [], []
    for name, preset in PRESETS.items():
        if preset.gated:
            try:
                api.auth_check(preset.hub)
                opened.append(name)
            except HfHubHTTPError:
                closed.append(name)
    told = f"open: {', '.join(opened) or 'none'}" + (f"; closed: {', '.join(closed)}" if closed else "")
    advice = "ask for access on the page of each model that you want"
    return judged("gated encoders", told, warning=not opened, advice=advice)
