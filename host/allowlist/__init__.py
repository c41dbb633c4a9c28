"""Which folders of this machine sandboxes may be given, and whether one that was asked for is such a folder.

The person's word is `mount-allowlist.json` in the config folder, in the format that NanoClaw has always had
(`file`). What it allows is judged anew for every sandbox (`judge`): by the folder that a path leads to and not by
how it was written, against names that are never mounted (`names`) and against places that no allowlist can open
(`protected`). The folder that was judged stays open until the sandbox has shown that it has that very one.
"""

from host.allowlist.file import FILE, Allowlist, Root
from host.allowlist.judge import TARGET, Verdict, judge, writable
from host.allowlist.protected import Protected

__all__ = ["FILE", "TARGET", "Allowlist", "Protected", "Root", "Verdict", "judge", "writable"]
