"""The release gate: is this candidate worse than its baseline? `python -m harness.check --help`

    run folder or baseline file ──> subject ─┐
                                             ├─> judge (rules) ──> findings ──> terminal, files, exit code
    run folder, or a fresh checkpoint ───────┘

`judge` and what it calls (`answers`, `timing`, `sequential`) are pure; `subject` reads and writes, `fresh` runs grids.
"""
