"""From a configuration group's choice to the object that does it, and what is asked of such classes.

A component class is a frozen dataclass whose fields are its knobs. It may carry
`VERSION` (raise it when its output changes), `LIBRARIES` (distributions that shape its output, part of the
key), `REQUIRES` (modules that must be importable), and `unsupported(environment) -> str | None`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from harness.environment import Environment
from harness.errors import UserError
from harness.types import Component


def resolve(target: str) -> Any:
    """The class of a dotted path. Raises `UserError` for one that does not exist."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"_target_ {target!r}: cannot be found ({error}); name a class of an installed module"
        ) from error


def instantiate(component: Component) -> Any:
    """The component as an object. Raises `UserError` for knobs that it does not have or values it refuses."""
    try:
        return resolve(component.target)(**component.params)
    except (TypeError, ValueError) as error:
        raise UserError(f"{component.name}: {error}") from error


def missing(component: Component) -> list[str]:
    """One line for each library that the component needs and that is not installed."""
    needs = getattr(resolve(component.target), "REQUIRES", ())
    return [
        f"{component.name}: needs the library {name!r}, which is not installed; pip install {name}"
        for name in needs
        if importlib.util.find_spec(name) is None
    ]


def unsupported(component: Component, environment: Environment) -> str | None:
    """Why the component cannot run here, or None."""
    check = getattr(instantiate(component), "unsupported", None)
    return check(environment) if check else None
