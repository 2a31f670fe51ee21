# SPDX-License-Identifier: Apache-2.0
"""A stage of the update pipeline, and how stages compose.

Clients encode in order, the server decodes the sum in reverse. Whether an order is legal is
settled when the plan is built: each stage is shown the `Contract` of what reaches it, refuses
it with a remedy, or returns the contract of what it hands on.

A payload inside the pipeline is a dict from field name to `(clients, size)` rows, so a stage may
append a field. The weight is applied once: after the last Clip and before the first stage that
needs a sum. A bound that moves is filled in for each round from what was sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, get_type_hints

import numpy as np

from muster.errors import PlanError
from muster.keys import Keys, RandomSource
from muster.privacy.distributed import known_shares
from muster.privacy.gaussian import is_number
from muster.privacy.release import Release
from muster.spelling import Spelled
from muster.types import Reply, Scalar, State, Tree

__all__ = ["Contract", "Field", "Pipeline", "Stage", "contract_of", "is_length"]

LENGTHS = 1e-30, 1e30  # float32 reaches from 1e-45 to 3e38, and noise is to fit beside


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
    """The contract of a payload: what is promised of it at one point of the pipeline.

    `bound` is the joint L2 norm of the vector fields of one client before weighting, None if
    nothing bounds it; `cap` the largest weight, None if unknown; `weighted` whether the weight
    has been applied; `moving` whether the bound moves between rounds; `step` the distance between
    two levels where vectors are integers, and `unrounded` the bound before they were rounded to
    them; `noise` the stage whose noise is made for exactly what
    is summed, which no later stage may change; `visible` whether replies are seen one by one,
    not only in the sum.
    """

    fields: tuple[Field, ...]
    bound: float | None = None
    moving: bool = False
    weighted: bool = False
    cap: float | None = None
    step: float | None = None
    unrounded: float | None = None
    noise: str | None = None
    visible: bool = True

    @property
    def sensitivity(self) -> float | None:
        """The L2 norm of what one client adds to the sum of the vectors, in their own unit."""
        if self.bound is None or self.cap is None:
            return None
        return self.bound * self.cap / (self.step or 1.0)

    @property
    def dimension(self) -> int:
        """Coordinates of all vector fields together."""
        return sum(field.size for field in self.fields if not field.scalar)

    @property
    def integer(self) -> bool:
        """Return whether vectors travel as integers."""
        return any(field.integer for field in self.fields)

    @property
    def bits(self) -> int:
        """Bits on the wire for one client."""
        return sum(field.size * field.bits for field in self.fields)

    def vectors(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return the vector fields of a payload (not the per-client scalars)."""
        return {f.name: payload[f.name] for f in self.fields if not f.scalar}


def is_length(value: object) -> bool:
    """Return whether it is a bound or a range that float32 can hold, beside noise of its size.

    >>> is_length(1.0), is_length(1e300), is_length("1")
    (True, False, False)
    """
    least, most = LENGTHS
    return is_number(value) and least <= value <= most  # type: ignore[operator]


def contract_of(payload: type[Any], size: int, bits: int, cap: float | None) -> Contract:
    """Return the contract of an algorithm's payload type, for vectors of so many coordinates."""
    kinds = get_type_hints(payload)
    return Contract(
        tuple(
            Field(name, 1 if kinds[name] is Scalar else size, kinds[name] is Scalar, bits=bits)
            for name in payload._fields
        ),
        cap=cap,
    )


class Stage(Spelled):
    """The hooks; a stage is a frozen dataclass of its settings, with no other state."""

    needs_sum: ClassVar[bool] = False
    keeps_sum: ClassVar[bool] = False  # what is summed stays what it was (a mask)
    corrupt: float = 0.0  # the fraction of clients that a mask takes to work for its reader

    def accept(self, contract: Contract) -> Contract:
        """Return the contract of what this stage hands on.

        Raises `PlanError` where it is illegal.
        """
        raise NotImplementedError

    def init(self, contract: Contract) -> State:
        """Return the state between rounds: the shared part is sent with the model."""
        return State()

    def bound_for_round(self, contract: Contract, sent: Tree) -> float | None:
        """Return the bound of what this stage hands on in a round in which `sent` was sent."""
        return self.accept(contract).bound

    def release(self, contract: Contract) -> Release | None:
        """Return the release of one round under this stage's noise; None for a stage without."""
        return None

    def step(self, contract: Contract) -> float:
        """Return how far one client's coordinate may move on its way through, rounding aside."""
        return 0.0

    def share_variance(self, contract: Contract) -> float:
        """Return the variance, in levels squared, of the noise that each client adds to the sum."""
        return 0.0

    def memory(self, contract: Contract) -> Tree:
        """Return a client's memory for this stage, without a leading axis; None for most."""
        return None

    def encode(
        self, payload: dict[str, Any], contract: Contract, sent: Tree, memory: Tree, key: Keys
    ) -> tuple[dict[str, Any], Tree]:
        """Encode rows into rows, on the client; never modify the input."""
        return payload, memory

    def decode(
        self, total: Reply, contract: Contract, state: State, key: RandomSource
    ) -> tuple[Reply, State]:
        """Undo the encoding on the sum, on the server; the next state."""
        return total, state

    def ended(self, state: State) -> State:
        """Return the state that may outlive the run, without what would undo its noise."""
        return state


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
            if not contract.visible:
                raise PlanError(
                    f"{stage} stands after {type(stages[i - 1]).__name__}, behind which only the "
                    f"sum is seen; put {stage} before it (one such stage is enough)"
                )
            if contract.noise and not stage.keeps_sum:
                raise PlanError(
                    f"{stage} stands after {contract.noise}, whose noise is made for exactly what "
                    f"is summed; put {stage} before it"
                )
            if stage.needs_sum and not contract.weighted:
                weigh, contract = i, replace(contract, weighted=True)
            contracts.append(contract)
            contract = stage.accept(contract)
        return cls(stages, (*contracts, replace(contract, weighted=True)), weigh)

    def init(self) -> tuple[State, ...]:
        """Return the state of every stage before the first round."""
        return tuple(s.init(c) for s, c in zip(self.stages, self.contracts, strict=False))

    def memory(self) -> tuple[Tree, ...]:
        """Return a client's memory of every stage before its first round."""
        return tuple(s.memory(c) for s, c in zip(self.stages, self.contracts, strict=False))

    def releases(self) -> tuple[Release, ...]:
        """Return the releases of each round under the noise of the stages that add any.

        Of noise in shares, those that others know are noted: of the corrupt clients behind a mask,
        and without one of a reader that is a client itself.
        """
        corrupt = max((stage.corrupt for stage in self.stages), default=0.0)
        made = (s.release(c) for s, c in zip(self.stages, self.contracts, strict=False))
        return tuple(
            replace(one, known=known_shares(one.survivors, corrupt)) if one.discrete else one
            for one in made
            if one is not None
        )

    def honest_shares(self) -> int:
        """Count the honest clients' shares of noise that are charged for; 0 without shares.

        No sum may be opened that does not surely hold so many.
        """
        shared = (one for one in self.releases() if one.discrete)
        return max((one.survivors - one.known for one in shared), default=0)

    def ended(self, states: tuple[State, ...]) -> tuple[State, ...]:
        """Return the states as they may outlive the run; the same object where nothing must go."""
        after = tuple(stage.ended(state) for stage, state in zip(self.stages, states, strict=True))
        kept = all(new is old for new, old in zip(after, states, strict=True))
        return states if kept else after

    def step(self, contract: Contract) -> float:
        """Return how far one client's coordinate may move on its way through, rounding aside."""
        return 0.0

    def share_variance(self) -> float:
        """Return the variance, in levels squared, of the noise that each client adds to the sum."""
        return sum(s.share_variance(c) for s, c in zip(self.stages, self.contracts, strict=False))

    def empty_reply(self, dtype: str) -> dict[str, Any]:
        """Return the sum of no replies, as it would travel."""
        fields = self.contracts[-1].fields
        return {f.name: np.zeros(f.size, np.int64 if f.integer else dtype) for f in fields}

    def now(self, sent: tuple[Tree, ...]) -> tuple[Contract, ...]:
        """Return the contracts of one round: a moving bound has the value that was sent."""
        if not any(contract.moving for contract in self.contracts):
            return self.contracts
        bound, unrounded = self.contracts[0].bound, None
        contracts: list[Contract] = []
        for i, contract in enumerate(self.contracts):
            if contract.moving:
                exact = unrounded if contract.unrounded is not None else None
                contract = replace(contract, bound=bound, unrounded=exact)
            contracts.append(contract)
            unrounded = contract.bound if contract.step is None else unrounded
            if i < len(self.stages):
                bound = self.stages[i].bound_for_round(contract, sent[i])
        return tuple(contracts)

    def encode(
        self,
        payload: dict[str, Any],
        sent: tuple[Tree, ...],
        memory: Tree,
        key: Keys,
        weights: Any,
        *,
        own: bool = False,
    ) -> tuple[dict[str, Any], tuple[Tree, ...]]:
        """Encode rows `(clients, size)` through all stages, weighted with `weights` `(clients,)`.

        `own`: the rows' memory may be written to.
        """
        kept: list[Tree] = []
        contracts = self.now(sent)
        mine = memory or (None,) * len(self.stages)
        for i, stage in enumerate(self.stages):
            if i == self.weigh:
                payload = _weighted(payload, weights, own=own and i == 0)
            payload, fresh = stage.encode(payload, contracts[i], sent[i], mine[i], key.at(i))
            kept.append(fresh)
        if self.weigh == len(self.stages):
            payload = _weighted(payload, weights, own=own and not self.stages)
        return payload, tuple(kept)

    def decode(
        self, total: Reply, states: tuple[State, ...], key: RandomSource
    ) -> tuple[Reply, tuple[State, ...]]:
        """Take the sum back through all stages in reverse."""
        fresh, contracts = list(states), self.now(tuple(state.shared for state in states))
        for i in reversed(range(len(self.stages))):
            total, fresh[i] = self.stages[i].decode(total, contracts[i], states[i], key.at(i))
        return total, tuple(fresh)


def _weighted(payload: dict[str, Any], weights: Any, *, own: bool) -> dict[str, Any]:
    """Return each row times its weight: where it lies, if that may be written to."""

    def weighted(rows: Any) -> Any:
        by = weights[:, None].astype(rows.dtype)
        if own and isinstance(rows, np.ndarray) and rows.flags.writeable:
            return np.multiply(rows, by, out=rows)
        return rows * by

    return {name: weighted(rows) for name, rows in payload.items()}
