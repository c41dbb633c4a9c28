"""The list of components in CycloneDX's words (1.5, JSON): no time and no chance in it, so that two builds agree."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from components import Component

NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""RFC 9562's for addresses."""
SPDX_ID: Final = re.compile(r"[A-Za-z0-9.+-]+")


def document(name: str, version: str, build: str, components: Sequence[Component]) -> dict[str, Any]:
    serial = uuid.uuid5(NAMESPACE, f"nanoclaw:{name}:{build}")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": name, "type": "application", "name": name, "version": version,
                "properties": [{"name": "nanoclaw:build", "value": build}],
            }
        },
        "components": [_component(each) for each in components],
    }  # fmt: skip


def _component(each: Component) -> dict[str, Any]:
    record: dict[str, Any] = {
        "bom-ref": f"{each.part}/{each.name}@{each.version}",
        "type": "application" if each.name in ("NanoClaw", "bubblewrap") else "library",
        "name": each.name,
        "version": each.version,
        "licenses": [_licence(each.licence)],
        "properties": [
            {"name": "nanoclaw:kind", "value": each.kind},
            {"name": "nanoclaw:part", "value": each.part},
            {"name": "nanoclaw:source", "value": each.source},
        ],
    }
    if found := _purl(each):
        record["purl"] = found
    return record


def _licence(words: str) -> dict[str, Any]:
    """An SPDX expression is one; what Debian's notices say is words."""
    if re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", words) and re.search(
        r"-|MIT|ISC|Zlib|0BSD", words
    ):
        return {"expression": words}
    return {"license": {"name": words}}


def _purl(each: Component) -> str:
    where, _, rest = each.source.partition(": ")
    package = rest.rpartition(" ")[0]
    if where == "PyPI":
        return f"pkg:pypi/{quote(package.lower().replace('_', '-'))}@{quote(rest.rpartition(' ')[2])}"
    if where == "Go module":
        return f"pkg:golang/{quote(package, safe='/')}@{quote(each.version)}"
    if where == "Debian source package" and each.part == "the sandbox image":
        return f"pkg:deb/debian/{quote(each.name)}@{quote(each.version)}"
    return ""
