"""What the Hugging Face world keeps in the environment: endpoint, token, cache, certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from modelcache.errors import HubUnreachableError, UsageError
from modelcache.hub import Hub
from modelcache.records import ListedFile, LockedFile, Patience, Voice
from modelcache.wire import Wire

_TRUE = {"1", "on", "yes", "true"}


def connect(patience: Patience, voice: Voice) -> Hub:
    """Return the Hub that HF_ENDPOINT names, with the token of HF_TOKEN or `hf auth login`; no request yet.

    Raises:
        HubUnreachableError: HF_HUB_OFFLINE forbids every request.
        UsageError: HF_ENDPOINT is no address, or the token would travel in the clear.

    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise HubUnreachableError(
            "HF_HUB_OFFLINE is set, and something has to be fetched", hint="Unset HF_HUB_OFFLINE for this step."
        )
    from huggingface_hub import get_token

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if not endpoint.startswith(("https://", "http://")):
        raise UsageError(f"HF_ENDPOINT is {endpoint!r}, not an http address")
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    wire = Wire(patience, voice, ca_bundle=Path(bundle) if bundle else None)
    return Hub(endpoint, get_token() or None, wire)


def in_hf_cache(model_id: str, file: LockedFile | ListedFile, commit: str = "") -> Iterator[Path]:
    """Yield where the standard Hugging Face cache would hold a file, if it does."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{model_id.replace('/', '--')}"
    if name := file.sha256 or getattr(file, "blob_id", ""):
        yield repository / "blobs" / name
    if commit:
        yield repository / "snapshots" / commit / file.path
