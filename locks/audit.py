"""Asks vulnerability services about everything that is locked: `make audit`.

Exit code 0 where nothing is known against any of it, or where no service answers, which is said: without a network that
must not stop anyone's tests, and must not look like a clean bill either. 1 where a vulnerability is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).parent
SERVICES = ("pypi", "osv")
ACCEPTED: Mapping[str, str] = {}  # id of a vulnerability: why it does not reach us, and until when
Ask = Callable[[str, Sequence[str]], str]


def pip_audit(service: str, locks: Sequence[str]) -> str:
    """What pip-audit prints as JSON of some locks; nothing where it could not ask."""
    files = [part for name in locks for part in ("-r", str(LOCKS / name))]
    accepted = [part for known in ACCEPTED for part in ("--ignore-vuln", known)]
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
    command += ["-s", service, *files, *accepted]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def answers(text: str) -> list[dict[str, Any]]:
    """The packages that a service knew. pip-audit calls those that it found nothing about skipped, and ends well."""
    found = json.loads(text)["dependencies"] if text.strip() else []
    return [d for d in found if "vulns" in d]


def audited(ask: Ask = pip_audit) -> int:
    """Asks the first service that knows of pip, about all. Prints what came out; returns the exit code."""
    for service in SERVICES:
        if not answers(ask(service, ["pip.txt"])):
            continue
        text = ask(service, ["constraints.txt", "by_hand.txt"])
        known = answers(text)
        if not known:
            continue
        unknown = sorted(d["name"] for d in json.loads(text)["dependencies"] if "vulns" not in d)
        for d in known:
            for v in d["vulns"]:
                mend = f"mended in {', '.join(v['fix_versions'])}" if v["fix_versions"] else "not mended yet"
                print(f"{d['name']} {d['version']}: {v['id']}, {mend}")
        bad = sum(bool(d["vulns"]) for d in known)
        print(f"audit: {len(known)} packages asked about at {service}, {bad} with known vulnerabilities")
        if unknown:
            print(f"audit: nothing could be learnt about {', '.join(unknown)}")
        return int(bad > 0)
    print(f"audit: could not be audited: no vulnerability service reached ({', '.join(SERVICES)})")
    return 0


if __name__ == "__main__":
    sys.exit(audited())
