# SPDX-License-Identifier: Apache-2.0
"""`check_stage`: a stage keeps its contract, row by row and in the sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from muster import keys
from muster.errors import PlanError
from muster.pipeline.stage import Contract, Field, Pipeline, Stage
from muster.testing.claim import check_tree, check_value, claim, close, copied, refused, same
from muster.types import Reply, State
from muster.vectors import leaves, tree_map

__all__ = ["check_stage"]

CLIENTS = 5
PLAIN = Contract((Field("delta", 7), Field("control", 4), Field("norm", 1, scalar=True)))


class Bench(NamedTuple):
    """A stage with the contracts before and after it, its start, and the keys of a cohort."""

    stage: Stage
    contract: Contract
    out: Contract
    state: State
    memory: Any
    key: keys.Keys
    dtype: str

    def encode(self, payload: dict[str, Any], rows: slice = slice(None)) -> tuple[Any, Any]:
        """Encode these rows with their own keys and blank memories."""
        key = keys.Keys(self.key.key, self.key.clients[rows])
        count = len(key.clients)
        memory = tree_map(lambda a: np.stack([a] * count), self.memory)
        part = {name: value[rows] for name, value in payload.items()}
        return self.stage.encode(part, self.contract, self.state.shared, memory, key)


def check_stage(stage: Stage, contract: Contract | None = None, error: float | None = None) -> None:
    """Raise `AssertionError` where a stage breaks a promise of `Stage`.

    `contract` is what reaches it; by default one it accepts is looked for. `error` is how far
    one client's coordinate may move on its way through; by default what `stage.step(contract)`
    says, or rounding.

    >>> from muster.pipeline import Clip
    >>> check_stage(Clip(1.0))
    """
    check_value(stage)
    _accepts(stage)
    chosen = contract or next((c for c in _contracts() if _verdict(stage, c) is None), None)
    claim(chosen, f"{stage} accepts none of the usual contracts; give check_stage one it accepts")
    assert chosen is not None
    for bits in (32, 64):
        fields = tuple(f._replace(bits=bits) for f in chosen.fields)
        bench = _bench(stage, replace(chosen, fields=fields), bits)
        _rows(bench)
        _sum(bench, error)
        _bound(bench)


def _contracts() -> Iterator[Contract]:
    """Yield contracts from the barest promise to the fullest."""
    for weighted in (False, True):
        for bound, cap in ((None, None), (None, 3.0), (1.0, None), (1.0, 3.0)):
            for moving in (False, True):
                yield replace(PLAIN, bound=bound, cap=cap, weighted=weighted, moving=moving)


def _verdict(stage: Stage, contract: Contract) -> str | None:
    return refused(PlanError, lambda: stage.accept(contract))


def _accepts(stage: Stage) -> None:
    """Check that every contract is passed on or refused with a sentence; alone and twice."""
    integers = tuple(f if f.scalar else f._replace(integer=True, bits=8) for f in PLAIN.fields)
    for contract in (*_contracts(), replace(PLAIN, fields=integers, weighted=True, cap=3.0)):
        if _verdict(stage, contract) is not None:
            continue
        out = stage.accept(contract)
        claim(isinstance(out, Contract), f"{stage}.accept returned {out!r}, not a Contract")
        claim(out == stage.accept(contract), f"{stage}.accept answers otherwise when asked again")
        for stages in ((stage,), (stage, stage)):
            refused(PlanError, partial(Pipeline.build, stages, contract))


def _bench(stage: Stage, contract: Contract, bits: int) -> Bench:
    out, state, memory = stage.accept(contract), stage.init(contract), stage.memory(contract)
    check_tree(state, f"the state of {stage}")
    check_tree(memory, f"the memory of {stage}")
    cohort = keys.Keys(keys.key(3).at("encode"), tuple(f"client {i}" for i in range(CLIENTS)))
    return Bench(stage, contract, out, state, memory, cohort, f"float{bits}")


def _payload(bench: Bench, norm: float) -> dict[str, Any]:
    """Return rows whose vectors have this joint norm."""
    draw = np.random.default_rng(8)
    rows = {f.name: draw.normal(size=(CLIENTS, f.size)) for f in bench.contract.fields}
    vectors = bench.contract.vectors(rows)
    joint = np.sqrt(sum((v * v).sum(-1) for v in vectors.values()))[:, None]
    rows |= {name: v / joint * norm for name, v in vectors.items()}
    return {name: v.astype(bench.dtype) for name, v in rows.items()}


def _rows(bench: Bench) -> None:
    """Check shapes, dtypes, purity, determinism, a matrix row by row, zeros."""
    stage, payload = bench.stage, _payload(bench, 0.5)
    before = copied((payload, bench.state, bench.memory))
    encoded, memory = bench.encode(payload)
    pure = same((payload, bench.state, bench.memory), before)
    claim(pure, f"{stage}.encode changes what it is given; let it return new arrays")
    claim(same(bench.encode(payload), (encoded, memory)), f"{stage}.encode is not a function")
    names = {f.name: f for f in bench.out.fields}
    claim(set(encoded) == set(names), f"{stage} hands on {set(encoded)}, promised {set(names)}")
    for name, field in names.items():
        value = encoded[name]
        wanted = (CLIENTS, field.size)
        claim(value.shape == wanted, f"{stage} hands on {name} of {value.shape}, not {wanted}")
        kind = value.dtype.kind == "i" if field.integer else value.dtype == bench.dtype
        claim(kind, f"{stage} hands on {name} as {value.dtype}, against its contract")
        claim(np.isfinite(value).all(), f"{stage} hands on NaN or Inf in {name}")
    blank = {n: (np.asarray(v).dtype, np.shape(v)) for n, v in leaves(bench.memory)}
    kept = {n: (v.dtype, v.shape[1:]) for n, v in leaves(memory)}
    claim(blank == kept, f"{stage}: its memory changes its shape or dtype between rounds")
    check_tree(memory, f"the memory of {stage}")
    for i in range(CLIENTS):
        alone = bench.encode(payload, slice(i, i + 1))
        row = tree_map(lambda a, i=i: a[i : i + 1], (encoded, memory))
        claim(same(alone, row), f"{stage} encodes a client otherwise when it is in a cohort")
    zeros, _ = bench.encode({name: v * 0 for name, v in payload.items()})
    finite = all(np.isfinite(v).all() for v in zeros.values())
    claim(finite, f"{stage} makes NaN or Inf of zeros")


def _sum(bench: Bench, error: float | None) -> None:
    """Check that decoding the sum of the encoded gives the sum, as near as the stage says."""
    stage, contract = bench.stage, bench.contract
    limits = [contract.bound, bench.out.bound]
    limits += [float(np.min(leaf)) for _, leaf in leaves(bench.state.shared)]
    payload = _payload(bench, 0.5 * min([1.0, *(x for x in limits if x is not None and x > 0)]))
    encoded, _ = bench.encode(payload)
    total = {name: rows.sum(0) for name, rows in encoded.items()}
    reply = Reply(bench.key.clients, total, float(CLIENTS), {}, np.zeros(0))
    before = copied((total, bench.state))
    decoded, state = stage.decode(reply, contract, bench.state, keys.key(4))
    claim(same((total, bench.state), before), f"{stage}.decode changes what it is given")
    check_tree(state, f"the state of {stage}")
    shapes = [{n: np.shape(leaf) for n, leaf in leaves(s)} for s in (bench.state, state)]
    claim(shapes[0] == shapes[1], f"{stage}.decode returns a state of another shape than init")
    if error is None:
        error = float(stage.step(contract))
    rounding = 1e-5 if bench.dtype == "float32" else 1e-12
    wanted = {name: rows.sum(0) for name, rows in payload.items()}
    close(decoded.payload, wanted, CLIENTS * error + rounding, f"{stage}: sum, then decode")
    for name, value in decoded.payload.items():
        claim(value.dtype == bench.dtype, f"{stage}.decode makes {name} {value.dtype}")


def _bound(bench: Bench) -> None:
    """Check that a promised bound holds for what is far longer."""
    if bench.out.bound is None or bench.out.integer or bench.out.weighted:
        return
    encoded, _ = bench.encode(_payload(bench, 1e3 * bench.out.bound))
    vectors = bench.out.vectors(encoded)
    norms = np.sqrt(sum(np.square(v, dtype=np.float64).sum(-1) for v in vectors.values()))
    most = bench.out.bound * (1 + 1e-5)
    claim(norms.max() <= most, f"{bench.stage} promised norms up to {most:.6g}, not {norms.max()}")
