"""Write the pages of docs/reference/ from the code: ``python docs/generate.py``.

With ``--check`` nothing is written; the exit code is 1 if a page is not what the code gives.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generators import api, spaces, verbs

REFERENCE = Path(__file__).resolve().parent / "reference"
PAGES = {"spaces.md": spaces.page, "cli.md": verbs.page, "python.md": api.page}


def main(check: bool) -> int:
    made = {REFERENCE / name: page() for name, page in PAGES.items()}
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{path.name}: {'is not what the code gives; run python docs/generate.py' if check else 'written'}")
        if not check:
            path.write_text(made[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
