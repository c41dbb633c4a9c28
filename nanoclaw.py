#!/usr/bin/env python3
"""NanoClaw: a personal AI assistant whose every turn runs in a sealed container."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from host import bundle

    bundle.start()  # before anything else is imported: the environment of the launcher ends here

    from host.cli import main

    sys.exit(main(sys.argv[1:]))
