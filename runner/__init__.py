"""Everything that runs inside the container. Untrusted once it runs; imports nothing of `host`."""
