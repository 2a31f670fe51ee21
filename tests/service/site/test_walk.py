# SPDX-License-Identifier: Apache-2.0
"""Local training in pieces, broken off and gone on with, gives the bits of one go."""

import numpy as np
import pytest
from tests.service.site.scene import spoil

import muster
from muster import algorithms, keys, optimizers, tasks
from muster.local import Group, train
from muster.rounds import start
from muster.service.message import Task
from muster.service.site.vault import Vault
from muster.service.site.walk import Broken, Effort, Walk
from muster.store.blobs import Disk, NoRoom
from muster.vectors import leaves

torch = pytest.importorskip("torch")

TASK = Task("r", 3, "0" * 64, 30.0)


def make_bn():
    """A model with running statistics."""
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    )


def make_dropout():
    """A model that draws."""
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))


def make_average():
    """A model that counts its steps."""
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6, momentum=None), torch.nn.Linear(6, 3)
    )


def begin():
    """A model of one's own."""
    return {"w": np.zeros((3, 5))}


def fit(model, data, config):
    """Training of one's own."""
    return {"w": model["w"] + config.rate * config.steps}


def judge(model, data):
    """A measure of one's own."""
    return {"loss": float(np.square(model["w"]).mean())}


TASKS = {
    "numpy": tasks.numpy.MLP([5, 6, 3]),
    "torch": tasks.torch.Classifier(make_dropout),
    "batchnorm": tasks.torch.Classifier(make_bn),
    "average": tasks.torch.Classifier(make_average),
}
OPTIMIZERS = {"sgd": optimizers.SGD(0.1), "adam": optimizers.Adam(0.05)}


def the_plan(task, optimizer=OPTIMIZERS["sgd"], algorithm=None):
    """Nine epochs of five steps, the last of them short."""
    local = muster.Local(epochs=9, batch=4, optimizer=optimizer)
    return muster.Plan(task, algorithm or algorithms.FedProx(mu=0.1), local)


def trained(plan, walk=None):
    """All that comes of one client's round, by name."""
    draw = np.random.default_rng(1)
    data = draw.normal(size=(18, 5)), draw.integers(0, 3, 18)
    blank = plan.fresh_memory(*plan.task.init(keys.key(plan.seed).at("init")))
    known = (blank,) if plan.remembers else None
    group = Group(("a",), (1,), *data, np.zeros(1, int), np.array([18]), known)
    outcome = train(plan, "loop", 3, start(plan).sent(), group, walk)
    found = {
        "payload": outcome.payload, "buffers": outcome.buffers, "loss": outcome.metrics["loss"],
        "memory": outcome.memories and outcome.memories[0],
    }  # fmt: skip
    return {name: np.array(leaf) for name, leaf in leaves(found)}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


@pytest.fixture
def vault(tmp_path):
    """A vault that waits for no disk."""
    with_files = Vault(tmp_path, disk=Disk(sync=int))
    yield with_files
    with_files.close()


def check(plan, vault, whole):
    """Broken off after every piece, until it is done, it is the same."""
    lives = 0
    while True:
        lives += 1
        assert lives <= 46
        effort = Effort()
        effort.stop.set()
        try:
            found = trained(plan, Walk(TASK, vault, effort))
            break
        except Broken:
            assert vault.step.steps == effort.steps
    same(found, whole)
    return lives


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["numpy", "torch", "batchnorm"])
def test_a_walk_that_is_broken_off_and_gone_on_with_has_the_same_bits(name, optimizer, vault):
    plan = the_plan(TASKS[name], OPTIMIZERS[optimizer])
    assert check(plan, vault, trained(plan)) > 3


def test_scaffold_goes_on_with_its_memory(vault):
    plan = the_plan(TASKS["numpy"], algorithm=algorithms.Scaffold())
    assert check(plan, vault, trained(plan)) > 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_of_any_size_have_the_same_bits(size, vault, monkeypatch):
    plan = the_plan(TASKS["torch"], OPTIMIZERS["adam"])
    monkeypatch.setattr("muster.service.site.walk._size", lambda old, seconds: size)
    effort = Effort()
    same(trained(plan, Walk(TASK, vault, effort)), trained(plan))
    assert effort.steps == effort.total == 45


def test_jax_goes_on_with_the_same_bits(vault):
    pytest.importorskip("jax")
    plan = the_plan(tasks.jax.MLP((5, 6, 3)), algorithm=algorithms.FedAvg())
    assert check(plan, vault, trained(plan)) > 1


def test_a_model_that_counts_its_steps_is_never_cut(vault):
    plan = the_plan(TASKS["average"])
    effort = Effort()
    effort.stop.set()
    same(trained(plan, Walk(TASK, vault, effort)), trained(plan))
    assert effort.total == 0 and vault.step is None


def test_training_of_ones_own_is_never_cut(vault):
    plan = the_plan(tasks.custom.Custom(begin, fit, judge), algorithm=algorithms.FedAvg())
    effort = Effort()
    effort.stop.set()
    same(trained(plan, Walk(TASK, vault, effort)), trained(plan))
    assert effort.total == 0


def test_a_checkpoint_is_written_when_it_is_due_and_not_before(vault):
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0
        return now

    seen = []
    vault.at = seen.append
    trained(the_plan(TASKS["numpy"]), Walk(TASK, vault, Effort(), every=1e9, clock=clock))
    assert "site: in checkpoint" not in seen
    trained(the_plan(TASKS["numpy"]), Walk(TASK, vault, Effort(), every=10.0, clock=clock))
    assert 0 < seen.count("site: in checkpoint") < seen.count("site: in step") / 4


def test_a_checkpoint_of_another_task_is_left_alone(vault):
    plan, effort = the_plan(TASKS["numpy"]), Effort()
    effort.stop.set()
    with pytest.raises(Broken):
        trained(plan, Walk(TASK, vault, effort))
    other = Task("r", 3, "1" * 64, 30.0)
    same(trained(plan, Walk(other, vault, Effort())), trained(plan))


def test_a_damaged_checkpoint_is_not_used(vault):
    plan, effort, told = the_plan(TASKS["numpy"]), Effort(), []
    effort.stop.set()
    with pytest.raises(Broken):
        trained(plan, Walk(TASK, vault, effort))
    path = vault.folder / vault.step.blob
    spoil(path)
    same(trained(plan, Walk(TASK, vault, Effort(), told=told.append)), trained(plan))
    assert "begins anew" in told[0]


def test_a_full_disk_costs_a_checkpoint_and_no_training(vault, monkeypatch):
    told = []

    def full(*given):
        raise NoRoom("the disk is full; make room")

    monkeypatch.setattr(vault, "checkpoint", full)
    plan = the_plan(TASKS["numpy"])
    walk = Walk(TASK, vault, Effort(), every=0.0, told=told.append)
    same(trained(plan, walk), trained(plan))
    assert "training goes on" in told[0]
