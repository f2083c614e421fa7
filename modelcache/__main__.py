"""`python -m modelcache`, and in a wheel `python -m cache_models`: the command, where its script is not on the PATH."""

from __future__ import annotations

import sys

from cache_models import main

sys.exit(main())
