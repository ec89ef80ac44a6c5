"""Draws the report of a made-up grid of many cells and rows, and says how long that took and how large the page is.

python -m benchmarks.report_size --cells 1000 --rows 5000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness import ledger, report
from tests import records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=5000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "sweep" / "run"
        ids = []
        kinds = [(a, q) for a in records.ADAPTATIONS for q in records.QUANTIZATIONS]
        made = [records.rows(a, q, asked.rows) for a, q in kinds]
        cells = [records.record(a, q, rows) for (a, q), rows in zip(kinds, made, strict=True)]
        texts = ["".join(json.dumps(row) + "\n" for row in rows).encode() for rows in made]
        for n in range(asked.cells):
            one = cells[n % 15]
            knob = f"adaptation.rank={n // 15 + 1}"
            one = replace(one, id=f"{one.id}/{knob}", config={**one.config, "variant": knob})
            ids.append(one.id)
            ledger.write_record(run, one)
            target = run / "rows" / f"{ledger.slug(one.id)}.jsonl"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(texts[n % 15])
        ledger.write_cells(run, ids)
        near = [
            {"row": f"row-{n:03}", "source": "training", "kind": "near", "other": "t", "similarity": 0.7}
            for n in range(20)
        ]
        counts = {"training": 648, "validation": 72, "articles": 36, "evaluation": asked.rows}
        ledger.write_leakage(run, {"support_tone": {"rows": counts, "overlaps": near, "mode": "warn"}})
        start, cpu = time.perf_counter(), time.process_time()
        page = report.write(run)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        megabytes = page.stat().st_size / 1e6
        print(f"{asked.cells} cells x {asked.rows} rows: {seconds:.1f} s ({cpu:.1f} s of CPU), page {megabytes:.2f} MB")


if __name__ == "__main__":
    main()
