"""The Hugging Face settings of the environment: endpoint, token, cache."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modelcache.core.errors import HubError, HubUnreachableError, SettingError
from modelcache.core.hub_view import view_folder
from modelcache.core.interfaces import Reporter
from modelcache.core.redact import register_secret
from modelcache.system.limits import limit_behind
from modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from modelcache.core.types import Original
    from modelcache.sources.hub_api import Hub

_BYTE_ORDER_MARKS = ("\ufeff", "\xef\xbb\xbf")
"""As UTF-8, and as Latin-1, which is how it is read in some locales."""
_ENDPOINT_HINT = "Set it to the address of the Hub or of a mirror, such as https://huggingface.co."
_TOKEN_VARIABLES = ("HF_OIDC_RESOURCE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def connect(policy: RetryPolicy, reporter: Reporter, jobs: int) -> Hub:
    """Return the Hub that HF_ENDPOINT names, with the token of HF_TOKEN or `hf auth login`; no request yet.

    It sends `jobs` requests at the same time at the most.

    Raises:
        HubUnreachableError: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids every request.
        SettingError: HF_ENDPOINT is no address, the token is no token, or it would travel unencrypted.

    """
    # Import the HTTP client lazily: it is half of the import time of a run without requests.
    from modelcache.sources.hub_api import HUB_ADVICE, Hub
    from modelcache.transfer.http_client import HttpClient, ca_bundle_of_environment

    endpoint = _endpoint()
    if name := _offline_variable():
        raise HubUnreachableError(
            f"{name} is set, and files have to be fetched from the Hub",
            hint=f"Unset {name} for this step; `cache-models sync --from` copies models from another root without it.",
        )
    client = HttpClient(policy, reporter, jobs=jobs, ca_bundle=ca_bundle_of_environment(), advice=HUB_ADVICE)
    token, source = _token()
    return Hub(endpoint, token or None, client, token_source=source)


class LazyHub:
    """The Hub of a run that may need none: connects at the first call, and returns the same Hub to every thread."""

    def __init__(self, connect: Callable[[], Hub]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._hub: Hub | None = None

    def __call__(self) -> Hub:
        """Return the Hub, connected."""
        with self._lock:
            if self._hub is None:
                self._hub = self._connect()
            return self._hub

    def has_sent(self, file: Original) -> bool:
        """Whether the Hub has sent bytes of a file; see `Hub.has_sent`."""
        return self._hub is not None and self._hub.has_sent(file)


def in_hf_cache(repository: str, blob: str, path: str = "", commit: str = "") -> Iterator[Path]:
    """Yield the paths that a file would have in the standard Hugging Face cache: by its hash, and by its commit."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / view_folder(repository)
    if blob:
        yield folder / "blobs" / blob
    if commit:
        yield folder / "snapshots" / commit / path


def _endpoint() -> str:
    """Return the address of the Hub, or of the mirror in HF_ENDPOINT.

    Raises:
        SettingError: it is no address; it is not shown, since it may hold a password.

    """
    from modelcache.transfer.origins import origin_of

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    _refuse_quotes(endpoint, "HF_ENDPOINT is in quotes")
    if endpoint != endpoint.strip():
        raise SettingError("HF_ENDPOINT has spaces or a line break around it", hint=_ENDPOINT_HINT)
    try:
        origin_of(endpoint)
    except HubError as error:
        raise SettingError("HF_ENDPOINT is not a plain http or https address", hint=_ENDPOINT_HINT) from error
    return endpoint


def _offline_variable() -> str:
    """Return the variable that forbids every request, or nothing; as huggingface_hub 2.4 (constants.py) reads them."""
    from huggingface_hub import constants

    name = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), "")
    return name if os.environ.get(name, "").upper() in constants.ENV_VARS_TRUE_VALUES else ""


def _token() -> tuple[str, str]:
    """Return the token of HF_TOKEN or `hf auth login`, and where it comes from; empty if there is none.

    Raises:
        SettingError: it cannot be read, or has quotes or a mark, as container engines and editors leave them.

    """
    if not _may_have_a_token():
        return "", ""
    from huggingface_hub import errors, get_token

    try:
        token = get_token() or ""
    except OSError as error:
        if limit := limit_behind(error, "read the token"):
            raise limit from error
        hint = "Set HF_TOKEN, or HF_TOKEN_PATH."
        if isinstance(error, PermissionError):
            uid = os.geteuid()
            hint = f"Let uid {uid} read it, as the option uid={uid} of a build secret does, or set HF_TOKEN."
        raise SettingError(f"the token cannot be read: {error.strerror}: {error.filename}", hint=hint) from error
    except ValueError as error:
        raise SettingError(
            "the token cannot be read: its file is no text",
            hint="Set HF_TOKEN, or HF_TOKEN_PATH to a file that holds it.",
        ) from error
    except getattr(errors, "OIDCError", ()) as error:
        raise SettingError(f"there is no token: {error}", hint="Unset HF_OIDC_RESOURCE, or set HF_TOKEN.") from error
    register_secret(token)
    source = _source_of(token)
    _refuse_quotes(token, f"the token from {source} is in quotes")
    if token.startswith(_BYTE_ORDER_MARKS):
        raise SettingError(
            f"the token from {source} begins with a byte order mark, as some editors write it",
            hint="Save the file of HF_TOKEN_PATH as UTF-8 without it, or set HF_TOKEN.",
        )
    return token, source


def _source_of(token: str) -> str:
    """Return where the token comes from, for messages (huggingface_hub 2.4, utils/_auth.py `get_token`)."""
    from huggingface_hub import constants

    if os.environ.get("HF_OIDC_RESOURCE"):
        return "HF_OIDC_RESOURCE"
    for name in _TOKEN_VARIABLES[1:]:
        if value := os.environ.get(name):
            if token in value:
                return name
            break  # it is blank, and the library does not look at the next one
    path = Path(constants.HF_TOKEN_PATH)
    if not path.exists():
        return "the secrets of Google Colab"
    return f"{path} ({'HF_TOKEN_PATH' if os.environ.get('HF_TOKEN_PATH') else '`hf auth login`'})"


def _refuse_quotes(text: str, problem: str) -> None:
    if text.startswith(("'", '"')) or text.endswith(("'", '"')):
        hint = "Leave the quotes out: `docker --env-file` and Kubernetes keep them."
        raise SettingError(f"{problem}, which count as a part of it", hint=hint)


def _may_have_a_token() -> bool:
    """Whether huggingface_hub may find a token (2.4, utils/_auth.py `get_token`).

    `get_token` imports the client of huggingface_hub: a third of all that a first start imports.
    """
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in _TOKEN_VARIABLES) or "google.colab" in sys.modules:
        return True
    try:
        os.lstat(constants.HF_TOKEN_PATH)
    except (FileNotFoundError, NotADirectoryError):  # a home of /dev/null has none either
        return False
    except OSError:
        pass  # the library raises an error that says why
    return True
