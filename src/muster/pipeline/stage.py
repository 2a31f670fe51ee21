# SPDX-License-Identifier: Apache-2.0
"""What a stage of the update pipeline is, and how stages compose.

Clients encode in order, the server decodes the sum in reverse. Whether an order is legal is
settled when the plan is built: each stage is shown the `Contract` of what reaches it, refuses
it with a remedy, or returns the contract of what it hands on.

A payload inside the pipeline is a dict from field name to `(clients, size)` rows, so a stage may
append a field. The weight is applied once: after the last Clip and before the first stage that
needs a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, get_type_hints

from muster.errors import PlanError
from muster.keys import Key, Keys
from muster.types import Reply, Scalar, State, Tree

__all__ = ["Contract", "Field", "Pipeline", "Stage", "contract_of"]


class Field(NamedTuple):
    """One payload field: its size, whether it is one number a client, and its wire format."""

    name: str
    size: int
    scalar: bool = False
    bound: float | None = None
    integer: bool = False
    bits: int = 32


@dataclass(frozen=True)
class Contract:
    """What is promised of a payload at one point of the pipeline.

    `bound` is the joint L2 norm of the vector fields of one client before weighting, None if
    nothing bounds it; `cap` the largest weight, None if unknown; `weighted` whether the weight
    has been applied; `moving` whether the bound moves between rounds.
    """

    fields: tuple[Field, ...]
    bound: float | None = None
    moving: bool = False
    weighted: bool = False
    cap: float | None = None

    @property
    def integer(self) -> bool:
        """Whether vectors travel as integers."""
        return any(field.integer for field in self.fields)

    @property
    def bits(self) -> int:
        """Bits on the wire for one client."""
        return sum(field.size * field.bits for field in self.fields)

    def vectors(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The vector fields of a payload (not the per-client scalars)."""
        return {f.name: payload[f.name] for f in self.fields if not f.scalar}


def contract_of(payload: type[Any], size: int, bits: int, cap: float | None) -> Contract:
    """The contract of an algorithm's payload type, for vectors of so many coordinates."""
    kinds = get_type_hints(payload)
    return Contract(
        tuple(
            Field(name, 1 if kinds[name] is Scalar else size, kinds[name] is Scalar, bits=bits)
            for name in payload._fields
        ),
        cap=cap,
    )


class Stage:
    """The hooks; a stage is a frozen dataclass of its settings, with no other state."""

    needs_sum: ClassVar[bool] = False

    def accept(self, contract: Contract) -> Contract:
        """The contract of what this stage hands on; raise `PlanError` where it is illegal."""
        raise NotImplementedError

    def init(self, contract: Contract) -> State:
        """State between rounds: the shared part is sent with the model."""
        return State()

    def memory(self, contract: Contract) -> Tree:
        """What a client keeps for this stage, without a leading axis; None for most."""
        return None

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Rows in, rows out, on the client; never modifies its input."""
        raise NotImplementedError

    def decode(
        self, total: Reply, contract: Contract, state: State, key: Key
    ) -> tuple[Reply, State]:
        """Undo the encoding on the sum, on the server; the next state."""
        return total, state


@dataclass(frozen=True)
class Pipeline:
    """Stages that accepted one another; `contracts[i]` is what reaches stage i.

    >>> Pipeline.build((), Contract((Field("delta", 3),))).weigh
    0
    """

    stages: tuple[Stage, ...]
    contracts: tuple[Contract, ...]
    weigh: int

    @classmethod
    def build(cls, stages: tuple[Stage, ...], contract: Contract) -> Pipeline:
        """Compose; raises `PlanError` with the remedy for an illegal order or combination."""
        contracts, weigh = [], len(stages)
        for i, stage in enumerate(stages):
            if not isinstance(stage, Stage):
                raise PlanError(f"pipeline[{i}] is {stage!r}; give stages such as Clip(1.0)")
            if stage.needs_sum and not contract.weighted:
                weigh, contract = i, replace(contract, weighted=True)
            contracts.append(contract)
            contract = stage.accept(contract)
        return cls(stages, (*contracts, replace(contract, weighted=True)), weigh)

    def init(self) -> tuple[State, ...]:
        """The state of every stage before the first round."""
        return tuple(s.init(c) for s, c in zip(self.stages, self.contracts, strict=False))

    def memory(self) -> tuple[Tree, ...]:
        """A client's memory of every stage before its first round."""
        return tuple(s.memory(c) for s, c in zip(self.stages, self.contracts, strict=False))

    def encode(
        self, payload: dict[str, Any], sent: tuple[Tree, ...], memory: Tree, key: Keys, weights: Any
    ) -> tuple[dict[str, Any], tuple[Tree, ...]]:
        """Rows `(clients, size)` through all stages, weighted with `weights` `(clients,)`."""
        kept: list[Tree] = []
        mine = memory or (None,) * len(self.stages)
        for i, stage in enumerate(self.stages):
            if i == self.weigh:
                payload = _weighted(payload, weights)
            payload, fresh = stage.encode(payload, self.contracts[i], sent[i], mine[i], key.at(i))
            kept.append(fresh)
        if self.weigh == len(self.stages):
            payload = _weighted(payload, weights)
        return payload, tuple(kept)

    def decode(
        self, total: Reply, states: tuple[State, ...], key: Key
    ) -> tuple[Reply, tuple[State, ...]]:
        """The sum back through all stages in reverse."""
        fresh = list(states)
        for i in reversed(range(len(self.stages))):
            total, fresh[i] = self.stages[i].decode(total, self.contracts[i], states[i], key.at(i))
        return total, tuple(fresh)


def _weighted(payload: dict[str, Any], weights: Any) -> dict[str, Any]:
    return {k: v * weights[:, None].astype(v.dtype) for k, v in payload.items()}
