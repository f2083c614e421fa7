"""Mask secrets in all output: those that this process has read, in every encoding, and signatures in URLs.

The tool itself prints none of them. A server's answer may contain the token, because the server has seen it; so may
the traceback of a bug.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from urllib.parse import quote

_SHORTEST = 4
"""Characters; masking shorter secrets would tear holes into other words, and reveal the secret by them."""
_INSTEAD = "[hidden]"
# The query of a URL may be a signature, which is as good as a password until it expires.
_QUERY = re.compile(r"""\?[^\s'"\\?=]*=[^\s'"\\]*""")

_forms: set[str] = set()


def register_secret(secret: str) -> None:
    """Mask this value in all output."""
    if len(secret) < _SHORTEST:
        return
    raw = secret.encode(errors="surrogateescape")
    _forms.update((secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], ascii(secret)[1:-1]))
    _forms.update((quote(raw), quote(raw, safe=""), b64encode(raw).decode()))
    _forms.add(raw.decode("latin-1"))  # as http.client decodes headers


def redact(text: str) -> str:
    """Return a text with all secrets masked."""
    text = _QUERY.sub("?" + _INSTEAD, text)
    for form in sorted(_forms, key=len, reverse=True):  # one may contain another
        if form.lower() in text.lower():
            text = re.sub(re.escape(form), _INSTEAD, text, flags=re.IGNORECASE)
    return text
