# SPDX-License-Identifier: Apache-2.0
"""Local training in pieces, broken off and gone on with, gives the bits of one go."""

import numpy as np
import pytest
from tests.federation.site.scene import spoil

import muster
from muster import algorithms, keys, optimizers, tasks
from muster.federation.protocol.message import TrainAssignment
from muster.federation.site.checkpointed_run import CheckpointedRun, Effort, TrainingStopped
from muster.federation.site.store import SiteStore
from muster.local import Group, train
from muster.ports import Disk
from muster.rounds import start
from muster.store.blobs import NoRoom
from muster.vectors import leaves

torch = pytest.importorskip("torch")

TASK = TrainAssignment("r", 3, "0" * 64, 30.0)


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
        "payload": outcome.payload,
        "buffers": outcome.buffers,
        "loss": outcome.metrics["loss"],
        "memory": outcome.memories and outcome.memories[0],
    }
    return {name: np.array(leaf) for name, leaf in leaves(found)}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


@pytest.fixture
def site_store(tmp_path):
    """A vault that waits for no disk."""
    with_files = SiteStore(tmp_path, disk=Disk(sync=int))
    yield with_files
    with_files.close()


def check(plan, site_store, whole):
    """Broken off after every piece, until it is done, it is the same."""
    lives = 0
    while True:
        lives += 1
        assert lives <= 46
        effort = Effort()
        effort.stop.set()
        try:
            found = trained(plan, CheckpointedRun(TASK, site_store, effort))
            break
        except TrainingStopped:
            assert site_store.step.steps == effort.steps
    same(found, whole)
    return lives


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["numpy", "torch", "batchnorm"])
def test_a_walk_that_is_broken_off_and_gone_on_with_has_the_same_bits(name, optimizer, site_store):
    plan = the_plan(TASKS[name], OPTIMIZERS[optimizer])
    assert check(plan, site_store, trained(plan)) > 3


def test_scaffold_goes_on_with_its_memory(site_store):
    plan = the_plan(TASKS["numpy"], algorithm=algorithms.Scaffold())
    assert check(plan, site_store, trained(plan)) > 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_of_any_size_have_the_same_bits(size, site_store, monkeypatch):
    plan = the_plan(TASKS["torch"], OPTIMIZERS["adam"])
    monkeypatch.setattr("muster.federation.site.checkpointed_run._size", lambda old, seconds: size)
    effort = Effort()
    same(trained(plan, CheckpointedRun(TASK, site_store, effort)), trained(plan))
    assert effort.steps == effort.total == 45


def test_jax_goes_on_with_the_same_bits(site_store):
    pytest.importorskip("jax")
    plan = the_plan(tasks.jax.MLP((5, 6, 3)), algorithm=algorithms.FedAvg())
    assert check(plan, site_store, trained(plan)) > 1


def test_a_model_that_counts_its_steps_is_never_cut(site_store):
    plan = the_plan(TASKS["average"])
    effort = Effort()
    effort.stop.set()
    same(trained(plan, CheckpointedRun(TASK, site_store, effort)), trained(plan))
    assert effort.total == 0 and site_store.step is None


def test_training_of_ones_own_is_never_cut(site_store):
    plan = the_plan(tasks.custom.Custom(begin, fit, judge), algorithm=algorithms.FedAvg())
    effort = Effort()
    effort.stop.set()
    same(trained(plan, CheckpointedRun(TASK, site_store, effort)), trained(plan))
    assert effort.total == 0


def test_a_checkpoint_is_written_when_it_is_due_and_not_before(site_store):
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0
        return now

    seen = []
    site_store.at = seen.append
    trained(
        the_plan(TASKS["numpy"]),
        CheckpointedRun(TASK, site_store, Effort(), every=1e9, clock=clock),
    )
    assert "site: in checkpoint" not in seen
    trained(
        the_plan(TASKS["numpy"]),
        CheckpointedRun(TASK, site_store, Effort(), every=10.0, clock=clock),
    )
    assert 0 < seen.count("site: in checkpoint") < seen.count("site: in step") / 4


def test_a_checkpoint_of_another_task_is_left_alone(site_store):
    plan, effort = the_plan(TASKS["numpy"]), Effort()
    effort.stop.set()
    with pytest.raises(TrainingStopped):
        trained(plan, CheckpointedRun(TASK, site_store, effort))
    other = TrainAssignment("r", 3, "1" * 64, 30.0)
    same(trained(plan, CheckpointedRun(other, site_store, Effort())), trained(plan))


def test_a_damaged_checkpoint_is_not_used(site_store):
    plan, effort, told = the_plan(TASKS["numpy"]), Effort(), []
    effort.stop.set()
    with pytest.raises(TrainingStopped):
        trained(plan, CheckpointedRun(TASK, site_store, effort))
    path = site_store.folder / site_store.step.blob
    spoil(path)
    same(
        trained(plan, CheckpointedRun(TASK, site_store, Effort(), told=told.append)), trained(plan)
    )
    assert "begins anew" in told[0]


def test_a_full_disk_costs_a_checkpoint_and_no_training(site_store, monkeypatch):
    told = []

    def full(*given):
        raise NoRoom("the disk is full; make room")

    monkeypatch.setattr(site_store, "checkpoint", full)
    plan = the_plan(TASKS["numpy"])
    walk = CheckpointedRun(TASK, site_store, Effort(), every=0.0, told=told.append)
    same(trained(plan, walk), trained(plan))
    assert "training goes on" in told[0]
