# SPDX-License-Identifier: Apache-2.0
"""Compare the bits of small plans of every kind before and after a change that may move none.

    python tools/bits.py record FILE     before the change: train them, write the digests
    python tools/bits.py compare FILE    after it: train them again, print what differs, exit 1

Bits depend on the processor and on the libraries, so FILE belongs to one machine and is not kept
in the repository: record it on the commit from which the change begins. Both are printed and in it,
and a FILE of another processor or library is refused. Of a run are compared the state after each
round, the final one and each record without its times. Needs the extras torch, jax and site.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bits_plans import CASES, Trained

LIBRARIES = ("numpy", "torch", "jax", "jaxlib")
TIMES = ("seconds",)  # what a record has of the clock
PRINTED = 5  # differences of one plan that are named

Digests = dict[str, dict[str, str]]
Case = Callable[[Path], Trained]


def machine() -> dict[str, str]:
    """Return the processor and the libraries, on which bits depend."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("utf-8").splitlines() if listed.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    held = {one.metadata["Name"] for one in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in held}
    return {"processor": named[0] if named else platform.processor(), **versions}


def digested(trained: Trained) -> dict[str, str]:
    """Digest each version's every array, the final state as a whole, and each record."""
    found: dict[str, str] = {}
    for version, arrays in sorted(trained.versions.items()):
        for name, leaf in sorted(arrays.items()):
            found[f"version {version}, {name}"] = _digest(leaf)
    last = max(trained.versions)
    whole = {n: d for n, d in found.items() if n.startswith(f"version {last}, ")}
    found["final state"] = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    for record in trained.records:
        said = json.dumps(_timeless(record), sort_keys=True, default=repr)
        found[f"record {record['round']}"] = hashlib.sha256(said.encode()).hexdigest()
    return found


def _digest(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    head = f"{array.dtype.str} {np.shape(leaf)} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


def _timeless(told: Any) -> Any:
    if isinstance(told, Mapping):
        return {str(k): _timeless(v) for k, v in told.items() if k not in TIMES}
    if isinstance(told, list | tuple):
        return [_timeless(one) for one in told]
    return told


def trained(cases: Mapping[str, Case]) -> Digests:
    """Return the digests of every plan, each trained in a folder that goes with it."""
    found: Digests = {}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = digested(case(Path(folder) / "run"))
    return found


def differences(before: Digests, after: Digests) -> Iterator[str]:
    """Yield what is another of what was before, one line a plan."""
    for name, old in before.items():
        new = after.get(name)
        if new is None:
            yield f"{name}: not trained any more"
            continue
        other = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if other:
            more = f" and {len(other) - PRINTED} more" if len(other) > PRINTED else ""
            yield f"{name}: {'; '.join(other[:PRINTED])}{more}"


def main(words: list[str], cases: Mapping[str, Case] = CASES) -> int:
    """Record or compare; return 1 where a bit is another, 2 where nothing can be said."""
    if len(words) != 2 or words[0] not in ("record", "compare"):
        print(__doc__)
        return 2
    verb, file, here = words[0], Path(words[1]), machine()
    print(", ".join(f"{name} {value}" for name, value in here.items()))
    if verb == "record":
        plans = trained(cases)
        file.write_text(json.dumps({"machine": here, "plans": plans}, indent=1) + "\n")
        print(f"recorded {len(plans)} plans")
        return 0
    before = json.loads(file.read_text())
    if before["machine"] != here:
        print(f"{file} was recorded elsewhere ({before['machine']}), where bits may be others")
        return 2
    after = trained(cases)
    for name in [name for name in after if name not in before["plans"]]:
        print(f"{name}: came after the record, and is compared with nothing")
        after.pop(name)
    found = list(differences(before["plans"], after))
    print("\n".join(found) or f"{len(before['plans'])} plans: the same bits")
    return 1 if found else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main(sys.argv[1:]))
