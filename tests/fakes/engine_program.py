#!/usr/bin/env python3
"""Stands in for `docker` or `bwrap`: answers as the JSON in FAKE_ENGINE says, and writes down how it was called.

{"answers": [[["first", "arguments"], status, "stdout", "stderr"], …], "log": "file", "hang": ["first", …]}
"""

import json
import os
import sys
import time
from pathlib import Path

script = json.loads(Path(__file__).with_suffix(".json").read_text())
arguments = sys.argv[1:]
with Path(script["log"]).open("a") as log:
    log.write(json.dumps({"argv": arguments, "env": sorted(os.environ)}) + "\n")
if arguments[: len(script.get("hang", ["-"]))] == script.get("hang"):
    time.sleep(1000)
for start, status, out, err in script["answers"]:
    if arguments[: len(start)] == start:
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(status)
sys.exit("no answer to " + " ".join(arguments))
