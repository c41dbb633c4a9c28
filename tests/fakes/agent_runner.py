"""The real runner, from below its seal: a test machine is no container, and the product has no switch for that.

agent_runner.py --work DIR [--deadline SECONDS] [--proxy] [--undumpable]
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runner import forwarder, main, prompt, protocol, seal, shell


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--deadline", type=float, default=60)
    parser.add_argument("--proxy-port", type=int, default=0)
    parser.add_argument("--undumpable", action="store_true")
    options = parser.parse_args()
    if options.undumpable:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    # Where things stand on this machine; all else is as in the container.
    shell.WORKDIR = str(options.work / "group")
    shell.HOME = str(options.work / "home")
    prompt.GROUP, prompt.GLOBAL = options.work / "group", options.work / "global"
    forwarder.ADDRESS = ("127.0.0.1", options.proxy_port)
    forwarder.URL = f"http://127.0.0.1:{options.proxy_port}"
    hello = protocol.Hello(protocol.VERSION, seal.build(), seal.checks(), {})
    main.serve(hello, options.deadline, proxied=bool(options.proxy_port))


run()
