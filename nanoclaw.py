#!/usr/bin/env python3
"""NanoClaw: a personal AI assistant whose every turn runs in a sealed container."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    from host import bundle

    bundle.start()  # before anything else is imported: the environment of the launcher ends here

    if sys.getfilesystemencoding() != "utf-8" and not bundle.frozen():
        # Files in the image have names in UTF-8, whatever this terminal speaks. What is printed stays in its own.
        os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", "utf-8"))
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 (no shell is wanted)

    from host.cli import main

    sys.exit(main(sys.argv[1:]))
