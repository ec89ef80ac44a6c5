"""What this machine costs an hour, from a table of prices (conf/price, or a team's own)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from difflib import get_close_matches
from typing import Any

from harness.environment import Environment
from harness.types import Json

ROW = ("match", "usd_per_hour", "per_core", "source", "date")  # what prices of hardware say; notes may stand beside it


def _names(match: str, hardware: str) -> bool:
    """Whether words stand in a machine's name: H200 is not GH200, nor a part of a GPU (MIG), which words of its own
    name, the whole one."""
    stands = re.search(rf"(?<!\w){re.escape(match)}(?!\w)", hardware) is not None
    return stands and (" MIG" not in hardware or "MIG" in match)


def _own_price(environment: Environment) -> str:
    """An override that adds this machine to the table, for a command line."""
    words = "cpu" if environment.device == "cpu" else environment.hardware.removeprefix("NVIDIA ")
    key = re.sub(r"\W+", "_", words.lower()).strip("_")
    return f"""'+price.hardware.{key}={{match: "{words}", usd_per_hour: 1.90, source: mine, date: {date.today()}}}'"""


def priced(price: Mapping[str, Any], environment: Environment) -> tuple[dict[str, Json], list[str]]:
    """The price of this hardware. Each entry of `hardware` names words to be found in the machine's own name; of
    several that are found the longest count, and of those the last: a team's own stand behind those it inherits."""
    table, wanted = price.get("hardware"), price.get("use", "auto")
    told = f"price table {price['name']!r}" if "name" in price else "a price table without a `name`"
    if table is None:
        return {}, [f"{told}: it has no `hardware`, as conf/price/list_2026.yaml has; choose price=list_2026"]
    if not isinstance(table, Mapping) or not all(isinstance(row, Mapping) for row in table.values()):
        return {}, [f"{told}: hardware must map each name to its usd_per_hour, source and date"]
    if unfit := [name for name, row in table.items() if not isinstance(row.get("match", ""), str)]:
        return {}, [f"{told}: hardware.{name}.match must be a text" for name in unfit]
    if wanted != "auto":
        if not isinstance(wanted, str) or wanted not in table:
            return {}, [f"price.use={wanted!r}: not in the price table; it has {', '.join(map(str, table))}"]
        found = wanted
    else:
        machine, words = environment.hardware, {name: row.get("match", str(name)) for name, row in table.items()}
        matches = [name for name, match in words.items() if _names(match, machine)]
        if not matches and environment.device == "cpu":
            matches = [name for name, match in words.items() if match == "cpu"]
        if not matches:
            almost = [name for name, match in words.items() if match in machine]
            part = f" ({', '.join(map(str, almost))} is another's, or that of the whole card)" if almost else ""
            return {}, [
                f"price table {price.get('name')!r}: no price for {machine!r}{part}; give yours, in dollars an hour, "
                f"as {_own_price(environment)}, or in conf/price/{price.get('name')}.yaml, or choose one of "
                f"{', '.join(map(str, table))} with price.use=NAME"
            ]
        found = max(reversed(matches), key=lambda name: len(words[name]))
    row = table[found]
    numbers = {
        f"hardware.{found}.usd_per_hour": row.get("usd_per_hour"),
        **{k: price.get(k) for k in ("volume_requests", "utilization")},
    }
    faults = [
        f"{told}: {key} is {value!r}, and must be a number above 0"
        for key, value in numbers.items()
        if type(value) not in (int, float) or not 0 < value < math.inf
    ]
    if not faults and price["utilization"] > 1:
        faults.append(
            f"{told}: utilization is {price['utilization']!r}, but a share of the time: give one of at most 1"
        )
    faults += [
        f"{told}: hardware.{found}.{key}: no such key; did you mean {near[0]}? A name of your own must be less like it"
        for key in row
        if key not in ROW and (near := get_close_matches(str(key), ROW, n=1))
    ]
    if not isinstance(row.get("per_core", False), bool):
        faults.append(f"{told}: hardware.{found}.per_core is {row['per_core']!r}; give true or false")
    label, hosted = price.get("usd_per_labelled_row"), price.get("hosted") or {}
    if label is not None and not _dollars(label):
        faults.append(f"{told}: usd_per_labelled_row is {label!r}; give a number of 0 or more, or null")
    faults += [f"{told}: {line}" for line in _hosted_faults(hosted)]
    if faults:
        return {}, faults
    rest = {k: price.get(k) for k in ("name", "volume_requests", "utilization")}
    rest |= {"usd_per_labelled_row": label, "hosted": hosted}
    hourly = float(f"{row['usd_per_hour'] * (environment.cpu_count if row.get('per_core') else 1):.9g}")
    shown = {k: v for k, v in row.items() if k not in ("match", "per_core")}
    return {**rest, "hardware": found, **shown, "usd_per_hour": hourly}, []


def _dollars(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _hosted_faults(hosted: Any) -> list[str]:
    """A line for each hosted API whose row lacks a price, its source or its date."""
    if not isinstance(hosted, Mapping):
        return [f"hosted is {hosted!r}; give rows by name, as conf/price/list_2026.yaml has, or null"]
    wanted: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
        ("usd_per_million_input", "dollars per million tokens", _dollars),
        ("usd_per_million_output", "dollars per million tokens", _dollars),
        ("source", "where it stands", lambda told: isinstance(told, str)),
        ("date", "when it was read", lambda told: told is not None),
    )
    found = []
    for name, row in hosted.items():
        if isinstance(row, Mapping):
            lacking = [(key, what) for key, what, fits in wanted if not fits(row.get(key))]
            found += [f"hosted.{name}.{key} is {row.get(key)!r}; give {what}" for key, what in lacking]
        else:
            found.append(f"hosted.{name} is {row!r}; give its prices, source and date, or take it out")
    return found
