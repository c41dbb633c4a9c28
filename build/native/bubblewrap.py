"""bubblewrap as one static program, for machines that have no container engine at all."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from toolchain import EPOCH, compiler, environment, run

CAP: Final = ("cap_alloc", "cap_proc", "cap_extint", "cap_flag", "cap_text", "cap_file", "cap_syscalls")
BWRAP: Final = ("bubblewrap", "bind-mount", "network", "utils", "safe_openat", "chroot_realpath")
FLAGS: Final = (
    "-O2",
    "-D_GNU_SOURCE",
    "-DNDEBUG",
    "-fstack-protector-strong",
    "-Wno-everything",
    "-g0",
    "-include",
    "limits.h",
)


def names(header: str) -> list[str]:
    """The names of the capabilities in the kernel's header, by number."""
    found = {}
    for line in header.splitlines():
        words = line.split()
        if len(words) >= 3 and words[:1] == ["#define"] and words[1].startswith("CAP_") and words[2].isdecimal():
            found[int(words[2])] = words[1].lower()
    return [found[number] for number in range(len(found))]


def cap_names(header: str) -> str:
    """What libcap's own `_makenames` writes: it is a program that would have to run on this machine."""
    known = names(header)
    listed = "".join(f'    /* {number} */ "{name}", \\\n' for number, name in enumerate(known))
    return (
        f"#define __CAP_BITS {len(known)}\n#define __CAP_NAME_SIZE {max(map(len, known)) + 1}\n"
        f"#define LIBCAP_CAP_NAMES {{ \\\n{listed}  }}\n"
    )


def build(folders: dict[str, Path], work: Path, out: Path, arch: str) -> None:
    """`folders`: the unpacked sources by name. Makes `out/bwrap`, and its licences beside it."""
    cap, bwrap = folders["libcap"] / "libcap", folders["bubblewrap"]
    header = (cap / "include" / "uapi" / "linux" / "capability.h").read_text()
    (cap / "cap_names.h").write_text(cap_names(header))
    (bwrap / "config.h").write_text(f'#define PACKAGE_STRING "bubblewrap {bwrap.name.partition("-")[2]}"\n')
    sources = [*(str(cap / f"{name}.c") for name in CAP), *(str(bwrap / f"{name}.c") for name in BWRAP)]
    includes = [f"-I{cap / 'include'}", f"-I{cap / 'include' / 'uapi'}", f"-I{cap}", f"-I{bwrap}"]
    argv = [*compiler(arch, "musl"), "-static", "-s", *FLAGS, *includes, *sources, "-o", str(out / "bwrap")]
    out.mkdir(parents=True, exist_ok=True)
    run(argv, work, environment(arch, "musl", SOURCE_DATE_EPOCH=EPOCH))
    (out / "LICENSE.bubblewrap").write_bytes((bwrap / "COPYING").read_bytes())
    (out / "LICENSE.libcap").write_bytes((folders["libcap"] / "License").read_bytes())
