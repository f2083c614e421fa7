"""Serve a folder of models as a Hub: python -m tests.support.hub FOLDER."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from .hub import StandInHub


def main(argv: list[str] | None = None) -> int:
    """Serve FOLDER/<owner>/<name>/** until told to stop; the endpoint is the only line on stdout."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.hub", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds <owner>/<name>/ with the files of each model")
    parser.add_argument("--port", type=int, default=0, help="of the hub (default: any)")
    parser.add_argument("--cdn-port", type=int, default=0, help="of the content network (default: any)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--advertise", help="host name to use in redirects (default: --host)")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a directory")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    hub = StandInHub(host=options.host, advertise=options.advertise, port=options.port, cdn_port=options.cdn_port)
    for model in sorted(path for path in options.folder.glob("*/*") if path.is_dir()):
        hub.add(model.relative_to(options.folder).as_posix(), model)
    with hub:
        print(hub.url, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
