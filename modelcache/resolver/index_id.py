"""The identity of an index: equal for models whose vectors are comparable, as far as files can say."""

from __future__ import annotations

import hashlib
import json

from modelcache.core.kinds import Output
from modelcache.core.types import LockedModel, RemoteCode
from modelcache.resolver.inputs import Read, inputs_of

_VERSION = "v1"


def index_id(model: LockedModel, read: Read) -> str | None:
    """Return the identity of an index with vectors of a model: `v1-` and 32 hex digits; None where it gives no vectors.

    It is a hash over the hashes of weights, tokenizer and code, and over modules, pooling, prompts and lengths in one
    schema; the card, the licence, and files that `include` names for other programs do not count. Equal ids mean equal
    inputs. Different ids mean vectors that may not be comparable.
    """
    if model.kind.spec.output in (Output.SCORE, Output.NONE):
        return None
    inputs = sorted(inputs_of(model, read).items())
    counted = [[path, found.counted] for path, found in inputs if found.counted is not None]
    runs_code = model.remote_code is RemoteCode.VENDORED
    text = json.dumps([str(model.kind), runs_code, counted], sort_keys=True, ensure_ascii=True)
    return f"{_VERSION}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
