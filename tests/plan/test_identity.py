# SPDX-License-Identifier: Apache-2.0
"""One identity: a plan's value, the syntax trees of its code, and the state of what it holds."""

import functools
import importlib.util
import json
import subprocess
import sys
import threading
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster import Local, Plan, algorithms
from muster.errors import PlanError
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.plan.registry import differences, fingerprint, libraries, to_toml, to_value
from muster.types import TaskTraits

PLAN = '''"""A plan file."""
import functools
from dataclasses import dataclass

import numpy
import numpy as np
import muster
import beside
from beside import scale
from muster.layout import Layout, TensorEntry
from muster.metrics.head import OutputHead
from muster.types import TaskTraits

ROUNDS = 3
WIDTH = 4
TABLE = numpy.load(__file__[:-7] + "table.npy")
UNUSED = 1


@dataclass(frozen=True)
class Task:
    """A task."""

    loss: object
    framework = "custom"
    traits = TaskTraits(gradients=False)
    layout = Layout((TensorEntry("w", (2,)),))
    head = OutputHead("own")


def activation(z):
    """Bends."""
    return np.maximum(z, 0)  # here


def loss(z, y):
    return activation(z) * WIDTH * scale(y) + beside.SHIFT + TABLE.sum()


plan = muster.Plan(
    task=Task(loss), algorithm=muster.algorithms.FedAvg(),
    local=muster.Local(epochs=1, batch=4), rounds=ROUNDS,
)


def population():
    return WIDTH


print("loaded", ROUNDS)
np.errstate(all="warn")

if __name__ == "__main__":
    print("trained")
'''
BESIDE = '''
"""Beside the plan."""
SHIFT = 1
OTHER = 2

def factor():
    return 3

def scale(y):
    return y * factor()

def unused():
    return OTHER
'''


@dataclass(frozen=True)
class Holding:
    """A task that holds something."""

    held: Any
    framework = "custom"
    traits = TaskTraits(gradients=False)
    layout = Layout((TensorEntry("w", (2,)),))
    head = OutputHead("own")


def holding(held):
    return Plan(task=Holding(held), algorithm=algorithms.FedAvg(), local=Local(epochs=1, batch=4))


def mark(held):
    return fingerprint(holding(held))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Load the plan and the module beside it, with some text replaced; a folder for each."""
    made = []

    def load(table=(1.0, 2.0), **texts):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(folder)
        texts = {"plan": PLAN, "beside": BESIDE} | texts
        np.save(folder / "table.npy", np.array(table))
        for name in ("beside", "plan"):
            path = folder / f"{name}.py"
            path.write_text(texts[name])
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        return module.plan

    return load


def changed(old, new):
    """The names that differ."""
    return [name for name, *_ in differences(old, new)]


def test_the_same_code_in_another_folder_is_the_same(written):
    assert fingerprint(written()) == fingerprint(written())


@pytest.mark.parametrize(
    ("old", "new", "of"),
    [
        ("# here", "# there, perhaps", "plan"),
        ('"""Bends."""', "'''Cuts what is\n    below zero.'''", "plan"),
        ("return np.maximum(z, 0)", "return np.maximum(\n        z,\n        0,\n    )", "plan"),
        ("ROUNDS = 3", "ROUNDS = 30", "plan"),
        ("rounds=ROUNDS", "rounds=7", "plan"),
        ("UNUSED = 1", "UNUSED = 2", "plan"),
        ("return WIDTH", "return 5", "plan"),
        ('print("loaded"', 'print("ready"', "plan"),
        ('print("trained")', "pass", "plan"),
        ("import functools\n", "", "plan"),
        ("OTHER = 2", "OTHER = 3", "beside"),
    ],
)
def test_what_the_plan_does_not_stand_on_changes_nothing(written, old, new, of):
    first = fingerprint(written())
    text = {"plan": PLAN, "beside": BESIDE}[of].replace(old, new)
    assert first == fingerprint(written(**{"plan": PLAN, of: text}))


@pytest.mark.parametrize(
    ("old", "new", "of", "names"),
    [
        ("np.maximum(z, 0)", "np.tanh(z)", "plan", ["code.plan:activation"]),
        ("WIDTH = 4", "WIDTH = 5", "plan", ["code.plan:WIDTH"]),
        (
            "from beside import scale",
            "from beside import unused as scale",
            "plan",
            [
                "code.beside:factor",
                "code.beside:scale",
                "code.plan:scale",
                "code.beside:OTHER",
                "code.beside:unused",
            ],
        ),
        ('all="warn"', 'all="ignore"', "plan", ["code.plan:"]),
        (
            "import functools\n",
            "import functools\nfunctools.partial(print)\n",
            "plan",
            ["code.plan:", "code.plan:functools"],
        ),
        (
            'print("loaded"',
            'beside.ADDED = 1\nprint("loaded"',
            "plan",
            ["code.plan:", "code.plan:beside"],
        ),
        ("SHIFT = 1", "SHIFT = 2", "beside", ["code.beside:SHIFT"]),
        ("return 3", "return 4", "beside", ["code.beside:factor"]),
        ("(2,)", "(3,)", "plan", ["code.plan:Task"]),
    ],
)
def test_what_the_plan_stands_on_changes_it(written, old, new, of, names):
    texts = {"plan": PLAN, "beside": BESIDE}
    before, mark = to_value(written()), fingerprint(written())
    after = written(**texts | {of: texts[of].replace(old, new)})
    assert changed(before, to_value(after)) == names
    assert mark != fingerprint(after)


def test_numbers_that_a_module_reads_from_a_file_are_seen(written):
    before = to_value(written())
    assert changed(before, to_value(written(table=(1.0, 3.0)))) == ["code.plan:TABLE"]


def test_how_a_site_reads_its_rows_belongs_to_the_plan_file(written):
    loader = "\ndef local_data(path):\n    return DEGREE\n"
    plans = [written(plan=f"{PLAN}\nDEGREE = {d}\n{loader}") for d in (1, 2)]
    assert fingerprint(plans[0]) != fingerprint(plans[1])


def test_no_address_path_or_release_of_the_machine_is_in_it(tmp_path):
    script = Path(tmp_path / "say.py")
    script.write_text(
        "import sys\nfrom muster.plan.registry import to_value, fingerprint\n"
        "from tests.plan.test_identity import *\n"
        "class Loss:\n"
        "    def __init__(self):\n"
        "        self.w, self.of = np.arange(20.0), {'b', 'a', 'c'}\n"
        "        self.me, self._seen = self, {}\n"
        "    def __call__(self, z, y): return z - y\n"
        "plan = holding(functools.partial(Loss(), k=lambda: 1))\n"
        "print(fingerprint(plan))\n"
    )
    said = set()
    for seed in ("1", "2"):
        elsewhere = tmp_path / f"folder{seed}"
        elsewhere.mkdir()
        copy = elsewhere / "say.py"
        copy.write_bytes(script.read_bytes())
        root = Path(__file__).parents[2]
        path = f"{root}:{root / 'src'}"
        out = subprocess.run(
            [sys.executable, copy],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            cwd=elsewhere,
            check=True,
        )
        said.add(out.stdout)
    assert len(said) == 1


class Weighted:
    """A loss with state."""

    def __init__(self, weights, smoothing=0.0):
        self.weights, self.smoothing = np.array(weights), smoothing
        self._cache = {}

    def __call__(self, z, y):
        """The loss."""
        return z

    def method(self, z):
        """The same."""
        return z


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (Weighted([1.0, 9.0]), Weighted([9.0, 1.0]), "task.held.weights.values"),
        (Weighted([1.0]), Weighted([1.0], 0.1), "task.held.smoothing"),
        (Weighted(np.zeros(99)), Weighted(np.ones(99)), "task.held.weights.sha256"),
        (Weighted([1.0]).method, Weighted([2.0]).method, "task.held.self.weights.values"),
        (
            functools.partial(max, key=Weighted([1])),
            functools.partial(max, key=Weighted([2])),
            "task.held.key.weights.values",
        ),
        (
            functools.partial(max, function=1),
            functools.partial(max, function=2),
            "task.held.keywords.function",
        ),
        ((lambda h: lambda: h)(1), (lambda h: lambda: h)(2), "task.held.closure.h"),
        (lambda h=1: h, lambda h=2: h, None),
        ([lambda: 1, lambda: 2][0], [lambda: 1, lambda: 2][1], "task.held.code"),
        (np.float32(0.1).dtype.type, np.float64, "task.held"),
        (frozenset({1, 2}), frozenset({1, 3}), "task.held.items"),
        (b"a", b"b", "task.held.sha256"),
        (np.random.default_rng(1), np.random.default_rng(2), None),
        ({"a": float("inf")}, {"a": float("-inf")}, "task.held.a"),
    ],
)
def test_the_state_of_what_a_plan_holds_counts(one, other, names):
    first, second = to_value(holding(one)), to_value(holding(other))
    assert differences(first, second)
    if names:
        assert changed(first, second) == [names]
    assert mark(one) != mark(other)
    assert mark(one) == mark(one)
    assert json.loads(json.dumps(first)) == first
    assert tomllib.loads(to_toml(holding(one)))


def test_equal_state_is_equal_whatever_was_shared_or_cached():
    one, other = Weighted([1.0, 2.0]), Weighted([1.0, 2.0])
    one._cache = None
    other.smoothing = float("0.0")
    assert mark(one) == mark(other)
    assert mark([one, one]) == mark([one, other])
    assert mark(float("nan")) == mark(float("nan"))


def test_arrays_of_either_byte_order_have_the_same_numbers():
    big, little = (to_value(np.arange(20, dtype=f"{end}i4"))["sha256"] for end in "><")
    assert big == little


@pytest.mark.parametrize("what", [threading.Lock(), (n for n in range(3)), sys.stdout])
def test_what_cannot_be_told_is_refused_with_the_remedy(what):
    with pytest.raises(PlanError, match="make it inside the function that uses it"):
        mark({"inside": what})
    held = Weighted([1.0])
    held.lock = what
    with pytest.raises(PlanError, match=r"task\.held\.lock"):
        mark(held)


def test_two_keys_that_read_alike_are_refused():
    with pytest.raises(PlanError, match="read alike"):
        mark({1: "a", "1": "b"})


def test_what_is_too_deep_is_refused():
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    with pytest.raises(PlanError, match="levels deep"):
        mark(deep)


def notebook(text, name="made_by_hand"):
    """A module without a file, as a notebook is."""
    module = type(sys)(name)
    module.__spec__ = None
    sys.modules[name] = module
    exec(compile(text, "<cell>", "exec"), vars(module))
    return module


@pytest.mark.parametrize(
    ("old", "new"), [("WIDTH = 4", "WIDTH = 5"), ("z * 2", "z * 3"), ("z + 1", "z + 2")]
)
def test_a_notebook_is_known_by_its_functions_and_their_globals(old, new, monkeypatch):
    monkeypatch.setitem(sys.modules, "made_by_hand", None)
    text = (
        "import numpy as np\nWIDTH = 4\n"
        "def inner(z): return z * 2\n"
        "class Net:\n    def __call__(self, z): return z + 1\n"
        "def loss(z): return inner(z) * WIDTH + np.sum(Net()(z))\n"
    )
    first = mark(notebook(text).loss)
    assert first == mark(notebook(text).loss)
    assert first != mark(notebook(text.replace(old, new)).loss)


def test_libraries_are_known_by_name_and_listed_for_the_record(written):
    assert set(libraries(written())) >= {"numpy", "custom"}
    value = to_value(holding(json.dumps))
    assert value["task"]["held"] == "json:dumps"
    assert not any("json" in name for name in value["code"])


def test_torch_losses_models_and_activations(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def smooth(s):
        return nn.CrossEntropyLoss(label_smoothing=s)

    weighted = [nn.CrossEntropyLoss(weight=torch.tensor(w)) for w in ([1.0, 9.0], [9.0, 1.0])]
    bodies = [functools.partial(nn.Sequential, nn.Linear(2, 2), a()) for a in (nn.ReLU, nn.Tanh)]
    bodies[1].args[0].load_state_dict(bodies[0].args[0].state_dict())
    for one, other in (weighted, bodies, (smooth(0.0), smooth(0.1)), (nn.ReLU, nn.Tanh)):
        assert mark(one) != mark(other)
        assert mark(one) == mark(one)
    half = torch.arange(20, dtype=torch.bfloat16, requires_grad=True)
    assert mark(half) == mark(half.detach().clone()) != mark((half + 1).detach())
    assert mark(torch.nn.functional.relu) != mark(torch.tanh)


def test_a_longer_plan_is_the_same_plan(written):
    plan = written()
    assert fingerprint(replace(plan, rounds=99)) == fingerprint(plan)


def test_a_global_that_was_changed_in_this_process_is_another_plan(written, monkeypatch):
    plan = written()
    before = fingerprint(plan)
    module = sys.modules["plan"]
    monkeypatch.setattr(module, "WIDTH", 5)
    assert fingerprint(plan) != before
    monkeypatch.setattr(module, "WIDTH", 4)
    assert fingerprint(plan) == before


GLOBALS = PLAN.replace(
    "WIDTH = 4",
    """
import os
HERE, COUNT, DEVICE, BENT = os.path.dirname(__file__), 0, np.dtype("f4"), np.tanh
KEPT = {}
SEEN = list()
for WIDTH in (3, 4):
    print(WIDTH)
""",
).replace(
    "return activation(z)",
    """global COUNT
    COUNT += 1
    KEPT[COUNT] = SEEN
    return activation(BENT(z), HERE, DEVICE)""",
)


def test_paths_counters_and_caches_are_no_part_of_a_plan(written):
    plan = written(plan=GLOBALS)
    before = fingerprint(plan)
    module = sys.modules["plan"]
    module.COUNT, module.HERE = 7, "/elsewhere"
    module.KEPT["a"], module.DEVICE = 1, np.dtype("f8")
    module.SEEN.append(3)
    assert fingerprint(plan) == before == fingerprint(written(plan=GLOBALS))
    sys.modules["plan"].BENT = np.sin
    assert fingerprint(sys.modules["plan"].plan) != before


def test_what_was_loaded_counts_and_not_what_the_file_says_by_now(written):
    plan, path = written(), Path(sys.modules["plan"].__file__)
    before = fingerprint(plan)
    path.write_text(PLAN.replace("np.maximum(z, 0)", "np.tanh(z)"))
    assert fingerprint(plan) == before


def test_a_file_that_was_edited_before_anybody_looked_is_refused(written):
    plan, path = written(), Path(sys.modules["plan"].__file__)
    path.write_text(PLAN.replace("np.maximum(z, 0)", "np.tanh(z)"))
    with pytest.raises(PlanError, match=r"plan\.py was edited after it was loaded"):
        fingerprint(plan)
