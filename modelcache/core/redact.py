"""What is never told: the secrets that this process has read, however they are written, and signed addresses.

The tool puts none of them into its words. A server may: what it answers is told, and it has seen the token; and so may
a bug, whose traceback ends in somebody else's message.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from urllib.parse import quote

_SHORTEST = 4
"""Characters; hiding less would tear holes into every word, and tell by them what was hidden."""
_INSTEAD = "[hidden]"
# Of an address the rest is a signature, as good as a password for as long as it holds.
_QUERY = re.compile(r"""\?[^\s'"\\?=]*=[^\s'"\\]*""")

_forms: set[str] = set()


def register_secret(secret: str) -> None:
    """Never tell this, from now on."""
    if len(secret) < _SHORTEST:
        return
    raw = secret.encode(errors="surrogateescape")
    _forms.update((secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], ascii(secret)[1:-1]))
    _forms.update((quote(raw), quote(raw, safe=""), b64encode(raw).decode()))
    _forms.add(raw.decode("latin-1"))  # as http.client reads what a server says


def redact(text: str) -> str:
    """Return a text without what must not be told."""
    text = _QUERY.sub("?" + _INSTEAD, text)
    for form in sorted(_forms, key=len, reverse=True):  # one may be a part of another
        if form.lower() in text.lower():
            text = re.sub(re.escape(form), _INSTEAD, text, flags=re.IGNORECASE)
    return text
