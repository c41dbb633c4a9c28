"""Process 1 of the container: `python3 -I -S -B /opt/nanoclaw/runner/__main__.py --deadline SECONDS [--proxy]`."""

# The first statement that does anything. A process that is dumpable hands its memory, and the key in it, to
# every other process of its user through /proc/PID/mem, docker's seccomp profile or not. `ctypes` comes from
# the image's own library: with -I neither the working directory nor the environment can put one before it.
import ctypes

ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE

import resource  # noqa: E402

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

import os  # noqa: E402
import sys  # noqa: E402

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (pathlib costs 10 ms)
sys.path[:0] = [_ROOT, os.path.join(_ROOT, "lib")]  # noqa: PTH118

from runner.main import main  # noqa: E402

main(sys.argv[1:])
