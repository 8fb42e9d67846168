"""What the kernel's headers say: constants, sizes and offsets, as the compiler sees them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path("/usr/include/linux")
# Requests of the file system device start with the headers of FUSE.
HEADERS = [*sorted(path.name for path in FOLDER.glob("virtio_*.h")), "fuse.h"]
INCLUDES = "".join(f"#include <linux/{name}>\n" for name in HEADERS)
STRUCT = re.compile(r"\bstruct\s+((?:virtio|vring)\w*|fuse_(?:in|out)_header)\s*{")
# Header guards, and lists of texts.
NO_NUMBER = re.compile(r"_H_?$|^VIRTIO_BALLOON_S_NAMES")


@dataclass
class Kernel:
    """What the headers hold about virtio; sizes and offsets in bytes."""

    release: tuple[int, int]
    constants: dict[str, int] = field(default_factory=dict)
    structs: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def read(scratch: Path) -> Kernel:
    """Ask gcc. Flexible arrays and anonymous members are seen as C sees them."""
    macros = _gcc(["-dM", "-E", "-"], INCLUDES)
    names = re.findall(r"^#define ((?:VIRT|VRING)\w+)[ \t]+\S", macros, re.MULTILINE)
    text = _gcc(["-E", "-P", "-"], INCLUDES)
    for body in re.findall(r"\benum\s*\w*\s*{([^}]*)}", text):
        names += re.findall(r"\b(VIRTIO\w+)", body)
    names = sorted({name for name in names if not NO_NUMBER.search(name)})
    members = {name: _members(body) for name, body in _structs(text)}

    lines = [INCLUDES]
    lines += [f"#include <{name}>" for name in ("linux/version.h", "stdio.h", "stddef.h")]
    lines.append("int main(void) {")
    lines.append('printf("V release %d\\n", LINUX_VERSION_CODE);')
    lines += [f'printf("C {name} %lld\\n", (long long)({name}));' for name in names]
    for struct, fields in members.items():
        lines.append(f'printf("S {struct} %zu\\n", sizeof(struct {struct}));')
        lines += [
            f'printf("F {struct}.{name} %zu\\n", offsetof(struct {struct}, {name}));' for name in fields
        ]
    lines.append("return 0; }")
    program = scratch / "headers"
    _gcc(["-w", "-x", "c", "-o", str(program), "-"], "\n".join(lines))
    found = Kernel((0, 0))
    for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines():
        kind, name, number = line.split()
        value = int(number)
        if kind == "V":
            found.release = (value >> 16, value >> 8 & 0xFF)
        elif kind == "C":
            found.constants[name] = value
        elif kind == "S":
            found.sizes[name] = value
            found.structs.setdefault(name, {})
        else:
            struct, _, member = name.partition(".")
            found.structs.setdefault(struct, {})[member] = value
    return found


def _gcc(arguments: list[str], source: str) -> str:
    done = subprocess.run(["gcc", *arguments], input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def _structs(text: str) -> list[tuple[str, str]]:
    found = []
    for match in STRUCT.finditer(text):
        end = _closing(text, match.end() - 1)
        found.append((match.group(1), text[match.end() : end]))
    return found


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError("a brace stays open")


def _members(body: str) -> list[str]:
    """Names of the members, those of anonymous structures and unions included."""
    names: list[str] = []
    position = 0
    while position < len(body):
        end = body.find(";", position)
        brace = body.find("{", position)
        if end < 0:
            break
        if 0 <= brace < end:
            close = _closing(body, brace)
            end = body.find(";", close)
            declared = re.search(r"(\w+)\s*(?:\[[^\]]*\])?\s*$", _plain(body[close + 1 : end]))
            names += [declared.group(1)] if declared else _members(body[brace + 1 : close])
        else:
            for part in _plain(body[position:end]).split(","):
                declared = re.search(r"(\w+)\s*(?:\[[^\]]*\]\s*)*$", part)
                if declared and ":" not in part:
                    names.append(declared.group(1))
        position = end + 1
    return names


def _plain(text: str) -> str:
    return re.sub(r"__attribute__\s*\(\(.*?\)\)", "", text).strip()
