"""P2 and P5: the agent sees its folder and nothing else, and leaves only through the gate. P9: nothing persists."""

from __future__ import annotations

from typing import Final

from host.drill.probes.programs import (
    MAKE_DEVICE,
    MOUNT,
    RAW_SOCKET,
    UNSHARE,
    python,
)
from host.drill.words import Probe

CAPABILITIES: Final = "grep -E '^Cap(Eff|Prm|Inh|Amb):' /proc/self/status"
WRITE_SYSCTL: Final = (
    "f=/proc/sys/net/ipv4/ip_default_ttl; v=$(cat $f) && { echo $v > $f; } 2>&1 && echo 'wrote a sysctl'"
)


def write_to(*paths: str) -> str:
    return "; ".join(f"touch {path} && echo 'wrote {path}' && rm -f {path}" for path in paths)


# Mount points, besides those that every sandbox has. podman's /run/.containerenv is an empty file.
MOUNTS: Final = (
    "cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^(/|/(proc|sys|dev)(/.*)?|/tmp|/workspace(/group|/global|/inbox)?"
    "|/etc/(hosts|hostname|resolv.conf)|/run/.containerenv)$' | sed 's/^/found /'"
)

WALLS: Final = (
    Probe("uid", "P2", "be root", r"^uid 0$", "agent", "power", command='echo "uid $(id -u)"'),
    Probe("capabilities", "P2", "have a capability", r"^Cap\w+:\s*0*[1-9a-f]", "agent", "power", command=CAPABILITIES),
    Probe("new-privileges", "P2", "gain privileges from a setuid program", r"^NoNewPrivs:\s*0", "agent", "shared",
          # bubblewrap cannot be told to leave this off: in the control it is the host's own process 1 that has not.
          command="grep -h NoNewPrivs /proc/self/status /proc/1/status"),
    Probe("system-calls", "P2", "make any system call, unfiltered", r"^Seccomp:\s*0", "agent", "power",
          command="grep ^Seccomp: /proc/self/status", depends=("system call filter",)),
    Probe("make-device", "P2", "make a device file", "^made a device", "agent", "power", command=MAKE_DEVICE),
    Probe("mount", "P2", "mount a file system", "^mounted", "agent", "power", command=MOUNT),
    Probe("user-namespace", "P2", "make a user namespace, and all capabilities in it", "^made a user", "agent", "power",
          command=UNSHARE),
    Probe("sysctl", "P2", "change a kernel setting", "^wrote", "agent", "power", command=WRITE_SYSCTL),
    Probe("other-group", "P2", "find another group's file", "NCG-[0-9a-z]{16}", "agent", "granted",
          command="grep -rhoaE '[N]CG-[0-9a-z]{16}' /workspace /mnt /srv /home /var /root /run /tmp -s"),
    Probe("other-mounts", "P2", "find a folder of the host that was not granted", "^found.*", "agent", "granted",
          command=MOUNTS),
    Probe("engine-socket", "P2", "find the engine's socket", "^found", "agent", "granted",
          command="for s in /run/docker.sock /var/run/docker.sock /run/podman/podman.sock"
          " /run/containerd/containerd.sock; do test -S $s && echo \"found $s\"; done"),
    Probe("read-only-mount", "P2", "write to a folder that was mounted read-only", "^wrote", "agent", "granted",
          command=write_to("/workspace/inbox/x")),
    Probe("swapped-mount", "P2", "have a folder swapped between the host's look and the mount", "^handed over",
          "acts", "true-hello", depends=("mount comparison",)),
    Probe("host-processes-visible", "P2", "see the host's processes", "^saw", "agent", "shared",
          command="cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -aoE '[r]ehearsal[.-]server' | sed 's/^/saw /'"),
    Probe("interfaces", "P5", "find a network interface besides loopback", r"^interface (?!lo$)", "agent", "shared",
          command="sed -n '3,$s/^ *\\([^:]*\\):.*/interface \\1/p' /proc/net/dev"),
    Probe("routes", "P5", "find a route out", r"^route \w", "agent", "shared",
          command="sed -n '2,$s/^\\([^ \\t]*\\)[ \\t].*/route \\1/p' /proc/net/route"),
    Probe("host-tcp", "P5", "reach a service on the host's loopback by TCP", "^reached", "agent", "shared",
          command="timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && head -c 5 <&3 && echo && echo reached'"),
    Probe("host-udp", "P5", "reach a service on the host's loopback by UDP, as a name look-up would", "^reached",
          "agent", "shared",
          command=python("""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
try:
    s.connect(("127.0.0.1", {port}))  # so that a refusal is heard at once
    s.send(b"?")
    print("reached", s.recv(9))
except OSError as e:
    print(e)
""")),
    Probe("host-abstract-socket", "P5", "reach an abstract Unix socket of the host", "^reached", "agent", "shared",
          command=python("""
import socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect("\\0nanoclaw-drill-{port}")
    print("reached")
except OSError as e:
    print(e)
""")),
    Probe("raw-socket", "P5", "open a raw socket", "^opened", "agent", "power", command=RAW_SOCKET),
    Probe("refused-host", "P5", "reach a host that is not allowed, through the proxy", "^reached", "gate", "gate-open",
          command="curl -sS -m 5 --noproxy '' -x \"$http_proxy\" http://127.0.0.1:{port}/"),
    Probe("refused-tunnel", "P5", "reach it by CONNECT", "^reached", "gate", "gate-open",
          command="curl -sS -m 5 -p --noproxy '' -x \"$http_proxy\" http://127.0.0.1:{port}/"),
    Probe("private-address", "P5", "reach a private address by a name that is allowed", "^reached", "gate", "gate-open",
          command="curl -sS -m 5 --noproxy '' -x \"$http_proxy\" http://localhost:{port}/"),
    Probe("model-endpoint", "P5", "reach the model's endpoint from the shell", "only POST", "gate", "gate-open",
          command="curl -sS -m 5 --noproxy '' -x \"$http_proxy\" http://127.0.0.1:{model_port}/v1/messages"),
    Probe("unaudited", "P5", "have a connection that is not written down", "^not written down", "gate", "gate-open"),
)  # fmt: skip

PLANT: Final = (
    "cd /workspace/group && for m in json ctypes anthropic usercustomize sitecustomize runner; do"
    " echo 'open(\"/workspace/group/.ran-'$m'\", \"w\")' > $m.py; done"
    "; d=$HOME/.local/lib/python3.11/site-packages; mkdir -p $d && cp usercustomize.py $d"
)

TRACES: Final = (
    Probe("write-system", "P9", "change a program or a setting of the image", "^wrote", "agent", "power",
          command=write_to("/etc/x", "/usr/bin/x", "/usr/local/x", "/x")),
    Probe("write-runner", "P9", "change the runner's own code", "^wrote", "agent", "power",
          command=write_to("/opt/nanoclaw/x", "/opt/nanoclaw/runner/x", "/opt/nanoclaw/lib/x")),
    Probe("left-in-tmp", "P9", "leave a file in /tmp for the next turn", "^still there", "next", "same",
          command="test -e /tmp/left && echo still there"),
    Probe("left-in-home", "P9", "leave a start-up file in the home folder for the next turn", "^still there", "next",
          "same", command="test -e $HOME/.bashrc && echo still there"),
    Probe("left-running", "P9", "leave a process behind for the next turn", "^still there", "next", "same",
          command="a=$(cat /workspace/group/.beat); sleep 0.7; test \"$a\" != \"$(cat /workspace/group/.beat)\""
          " && echo still there"),
    Probe("planted-modules", "P9", "have the next turn's runner import modules from the group's folder", "^ran: ",
          "next", "site-open"),
)  # fmt: skip
LEAVE: Final = (
    "ln -sfn /proc/self/maps /workspace/group/CLAUDE.md; echo x > /tmp/left; mkdir -p $HOME; "
    "echo 'echo x' > $HOME/.bashrc; "
    + PLANT
    + "; (setsid bash -c 'for n in $(seq 300); do date +%N > /workspace/group/.beat; sleep 0.2; done'"
    " >/dev/null 2>&1 </dev/null &)"
)
"""What the agent leaves before its turn ends; the scene `next` looks for it."""
