"""Run the benchmarks: ``python benchmarks/run.py [--quick] [--only NAME] [--device D] [--check]``.

Every ``bench_NAME.py`` beside this file has a function ``rows(quick: bool) -> list[Row]``. PyTorch's default device is the one that is
measured, so its tensors land there. The rows go to ``results/<kind of machine>.json`` with the machine and the versions, and from there
into the table of docs/benchmarks.md. A benchmark left out by ``--only`` keeps its earlier rows. ``--quick`` checks that everything runs,
and records nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from harness import Row

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"


def benchmarks() -> list[str]:
    """List the benchmarks beside this file by name."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def processor() -> str:
    """Return the product name of the CPU, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine and the versions that the numbers belong to."""
    on_gpu = device.type != "cpu"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if sys.platform != "win32" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("unrender", "torch", "warp-lang", "numpy")},
        "date": datetime.date.today().isoformat(),
    }


def kind_of(device: torch.device) -> str:
    """Name the results file of a machine: ``cpu-2-cores``, ``nvidia-h200``."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device).lower().replace(" ", "-")
    return f"cpu-{torch.get_num_threads()}-cores"


def entry(row: Row) -> dict[str, Any]:
    """Turn a row into what the results file holds."""
    return {**dataclasses.asdict(row), "ratio": row.ratio, "ours_rate": row.ours_rate, "peer_rate": row.peer_rate}


def amount(value: float) -> str:
    """Format a number with three digits and a prefix: 5.8 M, 640, 0.5."""
    for size, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return _three_digits(value / size) + prefix
    return _three_digits(value)


def milliseconds(seconds: float | None) -> str:
    """Format a time in milliseconds with three digits."""
    return "–" if seconds is None else _three_digits(seconds * 1e3)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table() -> str:
    """Build the part of the page between its markers from all results files."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        header = ("what", "ours, ms", "items/s", "peer", "peer, ms", "times faster", "spread", "measured")
        parts += [f"### {path.stem}", "", _table_row(header), _table_row(["---"] * len(header))]
        parts += [_table_row(_cells(name, row, group["machine"])) for name, group in sorted(result.items()) for row in group["rows"]]
        machines = {_machine_line(group["machine"]) for group in result.values()}
        parts += ["", *(f"Machine: {line}." for line in sorted(machines)), ""]
    return "\n".join(parts) if parts else "Nothing has been measured yet.\n"


def _cells(name: str, row: dict[str, Any], on: dict[str, Any]) -> list[str]:
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.1f}"
    measured = f"{on['date']}, load {on['load_average']}"
    times = [milliseconds(row["ours"]), amount(row["ours_rate"]), row["peer_name"] or "–", milliseconds(row["peer"])]
    return [f"{name}: {row['name']}", *times, ratio, f"{row['spread']:.2f}", measured]


def _table_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _machine_line(on: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in on["versions"].items())
    return f"{on['device']}, {on['cores']} cores, {on['threads']} threads, {on['system']}, Python {on['python']}, {versions}"


def page_with(measured: str) -> str:
    """Return the page with another table between its markers."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{measured.rstrip()}\n{END}{after}"


def show(name: str, row: Row) -> None:
    """Print a row."""
    ratio = "" if row.ratio is None else f", {row.ratio:.1f} times {row.peer_name} ({milliseconds(row.peer)} ms)"
    print(f"{name}: {row.name}: {milliseconds(row.ours)} ms, {amount(row.ours_rate)} items/s{ratio}, spread {row.spread:.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure, record, and write the table of docs/benchmarks.md.")
    parser.add_argument("--quick", action="store_true", help="small sizes: check that everything runs, record nothing")
    parser.add_argument("--only", choices=benchmarks(), help="run one benchmark; the others keep their recorded rows")
    parser.add_argument("--device", default="cpu", help="where to run: cpu or cuda")
    parser.add_argument("--check", action="store_true", help="measure nothing; fail if the page does not show the recorded results")
    options = parser.parse_args()

    if options.check:
        if page_with(table()) != PAGE.read_text(encoding="utf-8"):
            print("docs/benchmarks.md differs from benchmarks/results; run make bench", file=sys.stderr)
            return 1
        return 0

    device = torch.device(options.device)
    file = RESULTS / f"{kind_of(device)}.json"
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in [options.only] if options.only else benchmarks():
        # A default device passes every call of PyTorch through Python, which is slow; for the CPU none is set.
        with nullcontext() if device.type == "cpu" else device:
            rows: list[Row] = importlib.import_module(f"bench_{name}").rows(options.quick)
        for row in rows:
            show(name, row)
        if not rows:  # its peer is missing, or it is made for another device: what was recorded earlier stays
            continue
        recorded[name] = {"machine": machine(device), "rows": [entry(row) for row in rows]}
        if not options.quick:
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            PAGE.write_text(page_with(table()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
