"""Tests of a built file, the one that NANOCLAW_BUILT names; nothing of the source tree is what they start."""
