"""Run a command and draw what it prints: the pictures of terminals in README and docs are real sessions.

python tools/picture.py docs/images/demo.svg virtio demo
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 92


def printed(command: list[str]) -> str:
    """Return what stays on the screen: spinners and erased lines leave nothing behind."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    screen: list[str] = []
    for line in done.stdout.decode().split("\n"):
        # What goes up and erases, such as a spinner that is done, takes back the lines above.
        ups = line.count("\x1b[1A")
        del screen[len(screen) - ups :]
        screen.append(re.split(r"\r|\x1b\[2K", line)[-1])
    return re.sub(r"\x1b\[\?25[lh]|\x1b\[1A", "", "\n".join(screen)).strip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {shlex.join(arguments.command)}", style="bold"))
        console.print(Text.from_ansi(printed(arguments.command)))
    svg = console.export_svg(title=shlex.join(arguments.command), unique_id="session")
    # The fonts would come from somebody's server.
    arguments.picture.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
