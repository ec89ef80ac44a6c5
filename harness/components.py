"""From a configuration group's choice to the object that does it, and what is asked of such classes.

A component class is a frozen dataclass whose fields are its knobs. It may carry `VERSION` (raise it when its output
changes), `LIBRARIES` (distributions that shape its output, part of the key), `SEEDED` (False for an adaptation that no
seed changes: cells of all seeds share it), `GUIDED` (False for one that does not read the suite's instructions: it
stands when they change; a class that derives from it says so itself), `SERVES` (False for an engine that answers one
batch at a time), and answer why it cannot run: `unsupported(environment) -> str | None`, `unfit(data) -> str | None`,
and `unable(config) -> str | None` of a model's own configuration, which a model that can tell it before it is built
gives by `config()`; what its files hold it gives by `fingerprint()`.

Called, a model lays a base model down as a Hugging Face directory, `(out, context)`; an adaptation turns it into an
adapted one with its prompt recipe, `(base, data, out, context)`, and reads of a row its message and its reply alone, as
its key does; a quantization compresses a model directory and never learns which adaptation came before it,
`(model, calibration, out, context)`, where `calibration` holds chat-templated training rows as text. Each returns facts
for the manifest, a quantization its proof that it took.
"""

from __future__ import annotations

import importlib
import traceback
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

from harness.errors import UserError
from harness.types import Component
from harness.wording import nearest


def resolve(target: str) -> Any:
    """The class of a dotted path. Raises `UserError` for one that does not exist, or whose module fails as it is
    imported, with the line."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"_target_ {target!r}: cannot be found ({error}); name a class of an installed module"
        ) from error
    except Exception as error:  # whatever a module of the user's own raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = error if isinstance(error, SyntaxError) else last
        told = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise UserError(f"_target_ {target!r}: {at.filename}, line {at.lineno}: {told}; mend it there") from error


def seeded(component: Component) -> bool:
    """Whether a seed changes what a component makes: of adaptations those that train."""
    return bool(getattr(resolve(component.target), "SEEDED", True))


def guided(component: Component) -> bool:
    """Whether an adaptation reads the suite's instructions: all but those that say they do not."""
    return bool(vars(resolve(component.target)).get("GUIDED", True))


def serves(component: Component) -> bool:
    """Whether an engine may serve requests side by side: all but those that say they cannot."""
    return bool(getattr(resolve(component.target), "SERVES", True))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a knob's value is of its declared type, for the types that YAML has; any other is left to the class."""
    kinds = get_args(hint) or (hint,)
    if not set(kinds) <= {int, float, str, bool, NoneType}:
        return True
    return type(value) in kinds or (type(value) is int and float in kinds) or (isinstance(value, str) and str in kinds)


def _faults(component: Component, target: Any) -> list[str]:
    """What is wrong with a component's knobs against the fields of its class."""
    hints = get_type_hints(target)
    known = {f.name: f for f in fields(target)}
    found = [f"no knob {k!r}{nearest(k, list(known))}" for k in component.params if k not in known]
    for name, knob in known.items():
        if name not in component.params:
            found += [f"{name} must be given"] if knob.default is MISSING and knob.default_factory is MISSING else []
        elif not _fits(component.params[name], hints[name]):
            found.append(f"{name}={component.params[name]!r}: must be {knob.type}")
    return [f"{component.name}: {fault}" for fault in found]


def instantiate(component: Component) -> Any:
    """The component as an object. Raises `UserError` for knobs that it does not have or values it refuses."""
    target = resolve(component.target)
    if is_dataclass(target) and (faults := _faults(component, target)):
        raise UserError(faults)
    try:
        return target(**component.params)
    except (TypeError, ValueError) as error:
        raise UserError(f"{component.name}: {error}") from error


def ask(component: Component, question: str, *about: Any) -> Any:
    """What a component answers to one of the questions above; None where its class does not know it."""
    answer = getattr(instantiate(component), question, None)
    return answer(*about) if answer else None
