"""Runs the WhatsApp program from this checkout with the library in the folder that NEONIZE_FROM names.

It keeps to no pace where HASTY is set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, os.environ["NEONIZE_FROM"])

from whatsapp.__main__ import main
from whatsapp.pace import HASTY

main(HASTY if os.environ.get("HASTY") else None)
