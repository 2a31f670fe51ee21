# SPDX-License-Identifier: Apache-2.0
"""Words that a newcomer writes first, and the sentence back: given, required, what to do."""

import copy
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

import muster
from muster import algorithms, optimizers, pipeline, sampling, schedules
from muster.errors import DataError, PlanError
from muster.plan.registry import assign, from_text, to_value
from muster.tasks import custom
from muster.tasks import numpy as numpy_tasks

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def plan(task=None, **fields):
    given = {"algorithm": algorithms.FedAvg(), "local": muster.Local(epochs=1, batch=4)}
    return muster.Plan(task=task or numpy_tasks.SoftmaxRegression(4, 2), **given | fields)


UNKNOWN = [
    (lambda: muster.Local(epochs=1, batch_size=3), r"Local\(batch_size=3\): .* mean batch\? Local"),
    (lambda: muster.Local(epoch=1), "did you mean epochs"),
    (lambda: optimizers.SGD(lr=0.1), r"no lr; did you mean rate\? SGD takes rate"),
    (lambda: optimizers.Adam(learning_rate=1), "did you mean rate"),
    (lambda: schedules.Cosine(period=3), "Cosine takes "),
    (lambda: algorithms.FedProx(proximal_mu=0.1), "did you mean mu"),
    (lambda: pipeline.Clip(max_norm=1.0), "did you mean bound"),
    (lambda: sampling.Uniform(num_clients=3), "did you mean count"),
    (lambda: muster.PerExample(1.0, noise_multiplier=1.1), "did you mean multiplier"),
    (lambda: plan(num_rounds=3), "did you mean rounds"),
    (lambda: numpy_tasks.MLP([4, 2], activations="relu"), "did you mean activation"),
    (lambda: custom.Custom(beginning=None), "Custom takes start, fit"),
    (lambda: assign(plan(), "algoritm=FedAvg()"), "no field 'algoritm'; did you mean algorithm"),
    (lambda: assign(plan(), "local.batch_size=3"), "no field 'batch_size'; did you mean batch"),
    (lambda: from_text("FedAvg(sever=SGD(1.0))"), "no sever; did you mean server"),
]


@pytest.mark.parametrize(("make", "words"), UNKNOWN, ids=[words[:40] for _, words in UNKNOWN])
def test_a_field_that_is_not_there_is_named_with_the_one_that_was_meant(make, words):
    with pytest.raises(PlanError, match=words):
        make()


@pytest.mark.parametrize(
    ("room", "name", "words"),
    [
        (algorithms, "SCAFFOLD", r"muster\.algorithms has no SCAFFOLD; did you mean Scaffold\?"),
        (algorithms, "FedBN", r"use Plan\(share="),
        (optimizers, "AdamW", "did you mean Adam"),
        (sampling, "Random", "It has All, "),
        (pipeline, "Clipping", "did you mean Clip"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_what_is(room, name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(room, name)
    assert not hasattr(room, "__wrapped__")


@dataclass(frozen=True)
class Own(algorithms.FedProx):
    """A field more."""

    more: int = 3


class Quiet(optimizers.SGD):
    """A class with its own constructor, which takes what it likes."""

    def __init__(self, speed):
        super().__init__(rate=speed)


def test_values_travel_copy_and_are_extended_as_before():
    for value in (plan(), Own(0.2, more=4), optimizers.Adam(0.1), numpy_tasks.MLP([4, 2])):
        assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value) == replace(value)
    assert Quiet(speed=0.5).rate == 0.5
    with pytest.raises(PlanError, match=r"Own\(mor=1\): there is no mor; did you mean more"):
        Own(mor=1)


def test_the_names_of_papers_are_recipes_of_fedavg_and_its_server():
    found = {
        "FedAvgM": optimizers.Momentum(1.0, 0.9),
        "FedAdam": optimizers.Adam(0.01),
        "FedYogi": optimizers.Yogi(0.01),
        "FedAdagrad": optimizers.Adagrad(0.1),
    }
    for name, server in found.items():
        assert getattr(algorithms, name)() == algorithms.FedAvg(server)
        assert from_text(f"{name}()") == algorithms.FedAvg(server)
        assert to_value(getattr(algorithms, name)())["class"] == "FedAvg"
    assert assign(plan(), "algorithm=FedAdam(0.1, tau=0.01)").algorithm.server.tau == 0.01


def torch_room():
    pytest.importorskip("torch")
    return muster.tasks.torch


def layers():
    return pytest.importorskip("torch.nn")


def by_row():
    nn = layers()
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))


def one_class():
    return layers().Linear(4, 1)


def lstm():
    return layers().LSTM(4, 3, batch_first=True)


def lazy():
    nn = layers()
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))


def good():
    return layers().Linear(4, 2)


def sized(width):
    return layers().Linear(width, 2)


def pair_loss(output, y):
    return (output[0][:, -1].sum(1) - y).square()


MODELS = [
    (
        lambda r: r.Classifier(good()),
        PlanError,
        r"make_model=Linear\(\.\.\.\)\): that is one model",
    ),
    (
        lambda r: r.Classifier(sized),
        PlanError,
        r"make_model=sized\): it is called as make_model\(\)",
    ),
    (lambda r: r.Classifier(3), PlanError, r"make_model=3\): a function is needed"),
    (lambda r: plan(r.Classifier(lazy)), PlanError, "0.weight has no shape .*lazy layer.*zeros"),
    (
        lambda r: r.Model(good, layers().MSELoss),
        PlanError,
        r"that is the class; give .*MSELoss\(\)",
    ),
    (lambda r: r.Classifier(by_row).check(X, Y), DataError, r"with one number.*\(rows, classes\)"),
    (lambda r: r.Classifier(one_class).check(X, Y), DataError, "two classes or more"),
    (lambda r: r.Classifier(lstm).check(X[:, None], Y), DataError, "answers with a tuple.*forward"),
    (lambda r: r.Regressor(lstm).check(X[:, None], Y), DataError, "a Regressor needs one tensor"),
]


@pytest.mark.parametrize(
    ("make", "kind", "words"), MODELS, ids=[words[:40] for *_, words in MODELS]
)
def test_a_model_that_is_none_is_refused_before_training(make, kind, words):
    room = torch_room()
    with pytest.raises(kind, match=words):
        make(room)


def test_a_loss_of_one_s_own_may_take_a_tuple(tmp_path):
    room = torch_room()
    made = plan(room.Model(lstm, pair_loss), rounds=1)
    run = muster.simulate(made, {0: (X[:, None], Y)}, path=tmp_path, engine="loop")
    assert np.isfinite(run.parameters).all()


def test_optimizers_of_elsewhere_and_classes_are_refused():
    torch_room()
    from torch import optim

    made = optim.AdamW(good().parameters())
    for given in (optim.AdamW, made):
        with pytest.raises(PlanError, match=r"Local\(optimizer=AdamW\): that is of torch.*Adam\("):
            muster.Local(epochs=1, optimizer=given)
        with pytest.raises(PlanError, match=r"FedAvg\(server=AdamW\): that is of torch"):
            plan(algorithm=algorithms.FedAvg(server=given))
    with pytest.raises(PlanError, match=r"SGD\): that is the class of an Optimizer; give one"):
        muster.Local(epochs=1, optimizer=optimizers.SGD)


def no_key():
    return {"w": np.zeros((4, 2))}


def apply(params, x):
    return x @ params["w"]


def test_functions_of_a_jax_task_are_tried_for_what_they_take():
    pytest.importorskip("jax")
    room = muster.tasks.jax
    for make, words in (
        (
            lambda: room.Classifier(no_key, apply),
            r"make_params=no_key\): it is called as .*\(key\)",
        ),
        (lambda: room.Classifier({"w": 1}, apply), "a function is needed"),
        (
            lambda: room.Regressor(sized, no_key),
            r"apply=no_key\): it is called as apply\(params, x\)",
        ),
        (lambda: room.Classifier(sized, apply, draws=True), r"apply\(params, x, rng\)"),
        (
            lambda: room.Model(sized, apply, sized),
            r"loss=sized\): it is called as loss\(outputs, y\)",
        ),
    ):
        with pytest.raises(PlanError, match=words):
            make()


def test_functions_of_a_custom_task_are_tried_for_what_they_take():
    for make, words in (
        (lambda: custom.Custom({"w": X}, apply, apply), "Custom.start=.*a function is needed"),
        (
            lambda: custom.Custom(no_key, apply, apply),
            r"fit=apply\): it is called as fit\(model, d",
        ),
        (lambda: custom.Custom(no_key, max, no_key), r"measure=no_key\)"),
        (lambda: custom.Custom(no_key, max, apply, no_key), r"accept=no_key\)"),
    ):
        with pytest.raises(PlanError, match=words):
            make()
