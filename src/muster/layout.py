# SPDX-License-Identifier: Apache-2.0
"""The names, shapes and offsets behind a flat vector, and which of them are shared.

A model is one flat vector of parameters and one of buffers (BatchNorm's running statistics).
A `Sharing` cuts both by name: the shared part travels and is averaged, the private part is the
client's own and stays in its memory, and the frozen part, which nobody trains, is the same for
all: it comes down with the model and never goes up.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np

from muster.errors import PlanError
from muster.vectors import of

__all__ = ["Layout", "Sharing", "TensorEntry"]

Run = tuple[int, int, bool | None]  # from, to, and whose these coordinates are


class TensorEntry(NamedTuple):
    """One named tensor of a model: a trained parameter or a float buffer."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["parameter", "buffer"] = "parameter"

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in the order of its flat vectors.

    `frozen` names the parameters that no step of training moves.

    >>> Layout((TensorEntry("weight", (2, 3)), TensorEntry("bias", (2,)))).size
    8
    """

    entries: tuple[TensorEntry, ...]
    dtype: str = "float32"
    frozen: tuple[str, ...] = ()

    @cached_property
    def size(self) -> int:
        """Parameters in all: d."""
        return sum(entry.size for entry in self.entries if entry.kind == "parameter")

    @cached_property
    def buffers(self) -> int:
        """Buffer coordinates in all."""
        return sum(entry.size for entry in self.entries if entry.kind == "buffer")

    def named(self, vector: Any, kind: str = "parameter") -> dict[str, Any]:
        """Return views of a flat vector `(..., d)` by name, each `(..., *shape)`."""
        views, start = {}, 0
        for entry in self.entries:
            if entry.kind == kind:
                part = vector[..., start : start + entry.size]
                views[entry.name] = part.reshape((*vector.shape[:-1], *entry.shape))
                start += entry.size
        return views

    def flat(self, tensors: dict[str, Any], kind: str = "parameter") -> Any:
        """Return the inverse of `named`: one NumPy vector `(d,)` from tensors by name."""
        parts = [
            np.asarray(tensors[entry.name], self.dtype).reshape(-1)
            for entry in self.entries
            if entry.kind == kind
        ]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def sharing(self, share: str | tuple[str, ...]) -> Sharing:
        """Return what is shared under patterns such as `"*"`, `"body.*"` or `"!*.bn.*"`.

        A name is shared when it matches a plain pattern (or there is none) and no pattern that
        begins with `!`; a frozen parameter is neither shared nor private. Raises `PlanError` for
        a pattern that matches no name.
        """
        patterns = (share,) if isinstance(share, str) else tuple(share)
        names = [entry.name for entry in self.entries]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern.removeprefix("!")) and pattern not in ("*", "!*"):
                raise PlanError(
                    f"share={share!r}: {pattern!r} matches none of the model's tensors; "
                    f"use names such as {', '.join(names[:4])}"
                )
        wanted = [p for p in patterns if not p.startswith("!")] or ["*"]
        refused = [p[1:] for p in patterns if p.startswith("!")]

        def shared(name: str) -> bool | None:
            if name in self.frozen:
                return None
            return any(fnmatch.fnmatchcase(name, p) for p in wanted) and not any(
                fnmatch.fnmatchcase(name, p) for p in refused
            )

        return Sharing(*(self._mask(kind, shared) for kind in ("parameter", "buffer")))

    def _mask(self, kind: str, shared: Any) -> tuple[Run, ...]:
        runs: list[Run] = []
        start = 0
        for entry in self.entries:
            if entry.kind != kind:
                continue
            flag, stop = shared(entry.name), start + entry.size
            if runs and runs[-1][2] == flag:
                runs[-1] = (runs[-1][0], stop, flag)
            else:
                runs.append((start, stop, flag))
            start = stop
        return tuple(runs)


@dataclass(frozen=True)
class Sharing:
    """Runs `(start, stop, shared)` of the parameters and of the buffers.

    `shared` is True for what travels, False for what each client keeps to itself, and None for
    what nobody trains.

    >>> layout = Layout((TensorEntry("body", (2,)), TensorEntry("head", (1,))))
    >>> layout.sharing("body").take(np.array([1.0, 2.0, 3.0]))
    array([1., 2.])
    """

    parameters: tuple[Run, ...]
    buffers: tuple[Run, ...]

    @cached_property
    def everything(self) -> bool:
        """Return whether all is shared: nothing is private, nothing frozen."""
        return all(shared for _, _, shared in self.parameters + self.buffers)

    @cached_property
    def private(self) -> bool:
        """Return whether clients keep a part of the model to themselves."""
        return any(shared is False for _, _, shared in self.parameters + self.buffers)

    @cached_property
    def size(self) -> int:
        """The number of shared parameters: the width of what an algorithm works on."""
        return sum(stop - start for start, stop, shared in self.parameters if shared)

    @cached_property
    def averaged(self) -> int:
        """The number of shared buffers, which are averaged beside the parameters."""
        return sum(stop - start for start, stop, shared in self.buffers if shared)

    def take(self, vector: Any, *, shared: bool | None = True, buffers: bool = False) -> Any:
        """Return the shared (private: False, frozen: None) coordinates of a vector `(..., d)`."""
        runs = self.buffers if buffers else self.parameters
        mine = [(a, b) for a, b, flag in runs if flag is shared]
        if len(mine) == 1 and mine[0] == (0, vector.shape[-1]):
            return vector
        parts = [vector[..., a:b] for a, b in mine] or [vector[..., :0]]
        return parts[0] if len(parts) == 1 else of(vector).concatenate(parts, -1)

    def merge(self, shared: Any, private: Any, frozen: Any = None, *, buffers: bool = False) -> Any:
        """Merge shared, private and frozen coordinates into a full vector: undo the `take`s."""
        runs = self.buffers if buffers else self.parameters
        if (private is None and frozen is None) or all(flag for _, _, flag in runs):
            return shared
        of_part: dict[bool | None, Any] = {True: shared, False: private, None: frozen}
        parts, at = [], dict.fromkeys(of_part, 0)
        for start, stop, flag in runs:
            source, first = of_part[flag], at[flag]
            parts.append(source[..., first : first + stop - start])
            at[flag] = first + stop - start
        return parts[0] if len(parts) == 1 else of(shared).concatenate(parts, -1)
