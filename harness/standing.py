"""What of a plan stands in the store and may be relied on: the rest is to be done."""

from __future__ import annotations

from filelock import Timeout

from harness.plan import Plan
from harness.store import Store, faults
from harness.types import MEASURED


def standing(plan: Plan, store: Store, look_only: bool = False) -> tuple[set[str], dict[str, str]]:
    """The keys of steps that need no work, and by key what was wrong with builds that were found broken and are taken
    out of the store, to be built anew, unless it is to `look_only`.

    All are looked at by manifest and size. Every byte is read of measurements, which are small and go into records,
    and of what a step that is to be done will read; an evicted build counts as done until one wants its files.
    """
    broken: dict[str, str] = {}
    done: set[str] = set()

    def looked_at(key: str, thorough: bool) -> bool:
        step = plan.steps[key]
        if store.folder(step).exists() and (found := faults(store.folder(step), thorough)):
            try:
                if not look_only:
                    store.remove(store.folder(step))
            except Timeout:
                return False  # another grid builds it anew right now
            broken[key] = f"{step.kind}/{step.key} ({step.title}): {'; '.join(found)}"
        return key not in broken and store.manifest(step) is not None

    for key, step in plan.steps.items():
        if looked_at(key, thorough=step.kind in MEASURED):
            done.add(key)
    read: set[str] = set()
    while wanted := {p for k, s in plan.steps.items() if k not in done for p in s.parents if p in done} - read:
        read |= wanted
        done -= {k for k in wanted if not looked_at(k, thorough=True) or not store.is_whole(plan.steps[k])}
    for key in done if not look_only else ():
        store.touch(plan.steps[key])
    return done, broken
