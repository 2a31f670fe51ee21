# SPDX-License-Identifier: Apache-2.0
"""A name that nobody knows: the nearest one that is known, or our word for another library's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Self

from muster.errors import PlanError

__all__ = ["Spelled", "absent", "alien", "meant", "translated"]

# Words of other libraries, and ours for the same thing (of those that a class has).
ELSEWHERE = {
    "batch_size": ("batch",),
    "betas": ("beta1",),
    "clip_norm": ("bound", "clip"),
    "eps": ("tau",),
    "epochs": ("rounds",),
    "fraction_fit": ("fraction",),
    "learning_rate": ("rate",),
    "local_epochs": ("epochs",),
    "lr": ("rate",),
    "max_grad_norm": ("clip", "bound"),
    "max_norm": ("bound",),
    "min_fit_clients": ("minimum",),
    "model": ("make_model", "task"),
    "momentum": ("beta",),
    "noise_multiplier": ("multiplier",),
    "num_clients": ("count",),
    "num_epochs": ("epochs",),
    "num_rounds": ("rounds",),
    "optim": ("optimizer",),
    "params": ("make_params",),
    "proximal_mu": ("mu",),
    "server_optimizer": ("server",),
    "strategy": ("algorithm",),
}
PAPERS = {  # names of papers for what is a setting here
    "FedBN": "use Plan(share='!*.bn*'), by your layers' names",
    "FedOpt": "use FedAvg(server=...), such as FedAdam",
    "FedPer": "use Plan(share='body.*'), by your layers' names",
}


def translated(name: str, known: Iterable[str]) -> list[str]:
    """Return our words for another library's word.

    >>> translated("lr", ["rate", "tau"])
    ['rate']
    """
    known = list(known)
    return [word for word in ELSEWHERE.get(name, ()) if word in known]


def meant(name: str, known: Iterable[str]) -> str:
    """Return a question that names what is near, ending in a space; empty where nothing is.

    >>> meant("batch_size", ["epochs", "batch"]), meant("epocs", ["epochs"]), meant("x", ["rate"])
    ('did you mean batch? ', 'did you mean epochs? ', '')
    """
    known = list(known)
    folded = {word.lower(): word for word in reversed(known)}
    close = difflib.get_close_matches(name.lower(), folded, n=2, cutoff=0.6)
    near = translated(name, known) or [folded[word] for word in close]
    return f"did you mean {' or '.join(near)}? " if near else ""


def absent(room: str, name: str, known: Iterable[str]) -> AttributeError:
    """Return the error of a name that a room of the package has not.

    >>> print(absent("muster.algorithms", "SCAFFOLD", ["FedAvg", "Scaffold"]))
    muster.algorithms has no SCAFFOLD; did you mean Scaffold? It has FedAvg, Scaffold
    """
    known = list(known)
    remedy = PAPERS.get(name)
    hint = f"{remedy}. " if remedy else meant(name, known)
    said = "" if name.startswith("_") else f"; {hint}It has {', '.join(known)}"
    return AttributeError(f"{room} has no {name}{said}", name=name)


def alien(given: Any, kind: type) -> str:
    """Return the end of a sentence about something that is no value of a kind of ours.

    >>> from muster.optimizers import SGD, Optimizer
    >>> alien(SGD, Optimizer)
    'SGD): that is the class of an Optimizer; give one of it, such as SGD(0.1)'
    """
    made = given if isinstance(given, type) else type(given)
    said, noun = made.__name__ if made is given else f"{given!r:.60}", kind.__name__
    if made is given and issubclass(made, kind):
        return f"{said}): that is the class of an {noun}; give one of it, such as {said}(0.1)"
    home = made.__module__.split(".")[0]
    if home not in ("builtins", "muster"):
        return (
            f"{made.__name__}): that is of {home}, and a plan holds muster's own, which train "
            f"every framework; give an {noun} of muster, such as optimizers.Adam(0.001)"
        )
    return f"{said}): that is no {noun}; give one (did you forget to call it?)"


class Spelled:
    """The base of values whose constructors say in a sentence which field they do not know.

    >>> from muster.optimizers import SGD
    >>> SGD(lr=0.1)
    Traceback (most recent call last):
    muster.errors.PlanError: SGD(lr=0.1): there is no lr; did you mean rate? SGD takes rate
    """

    def __new__(cls, *given: Any, **named: Any) -> Self:
        """Refuse names that are no fields; the class itself takes the rest."""
        made = cls.__dict__.get("__dataclass_params__")
        if named and made is not None and made.init:
            known = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
            for name in named:
                if name not in known:
                    raise PlanError(
                        f"{cls.__name__}({name}={named[name]!r:.40}): there is no {name}; "
                        f"{meant(name, known)}{cls.__name__} takes {', '.join(known)}"
                    )
        return super().__new__(cls)
