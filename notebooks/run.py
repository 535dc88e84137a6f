"""Run the code of a notebook from top to bottom, as the checks do.

    python notebooks/run.py NOTEBOOK.ipynb

Needs no Jupyter. UNRENDER_EXAMPLE_STEPS=20 makes the notebooks short.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
program = {"__name__": "__main__"}
for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), program)
