# SPDX-License-Identifier: Apache-2.0
"""A member of good standing fetches from a server whatever it asks for by its certificate.

Every address of the server, those of its operator, and names of files are asked with every method,
about others and in their names, while their updates lie there. What comes back is the model, the
plan, and what concerns the member itself; the next model then shows what models show.
"""

from itertools import product

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")

from tests.adversary.members import NAMES, Hub
from tests.federation.coordinator.masked import plan_of, population

import muster
from muster import Every, Local, Plan, algorithms, optimizers, pipeline, tasks
from muster.federation.protocol.codec_tensors import digest, encode
from muster.federation.protocol.message import (
    VERSIONS,
    Decline,
    Hello,
    Measured,
    Poll,
    Progress,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    to_json,
)
from muster.federation.protocol.template import update_template
from muster.rounds import start
from muster.secagg.messages import (
    Delivery,
    Malformed,
    MaskedVector,
    OpenedShares,
    Revealed,
    Shares,
    read,
)
from muster.store.blobs import update_name
from muster.transport.routes import ROUTES
from muster.types import Cohort

SPY, OTHERS = NAMES[-1], NAMES[:-1]
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")
OPEN = Plan(
    task=tasks.numpy.MLP([4, 5, 3]),
    algorithm=algorithms.FedAvg(),
    rounds=3,
    local=Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.1)),
    evaluate=Every(1),
)
SECRET = "5ec4e7" * 10 + "beef"  # of a round's noise, as a server keeps it
ROWS = 4711  # of another member
LOSS = 3.14159265358979
HIDDEN_PATHS = (
    "/metrics",
    "/status",
    "/want/stop",
    "/seats",
    "/v1/seats",
    "/v1/tasks",
    "/v1/history",
    "/v1/transcripts",
    "/v1/secure",
    "/v1/metrics",
    "/v1/updates/1",
    "/v1/blobs",
    "/run.db",
    "/v1/models/",
    "/v1/models/..%2f..%2frun.db",
    "/v1/models/../../run.db",
    "/v1/members/ann",
)


@pytest.fixture
def hub_of(tmp_path):
    """A server over a plan; it is closed behind the test."""
    made = []

    def begun(plan):
        made.append(Hub(tmp_path, plan))
        return made[-1]

    yield begun
    for hub in made:
        hub.close()


def asked_of(hub, digests, files):
    """Every question that the spy has, as (method, path, body, headers)."""
    names = ((), ((b"muster-site", b"ann"), (b"x-client", b"ann")))
    about = ("", "?name=ann", "?client=ann&round=1&attempt=1&after=0&wait=0")
    bodies = [to_json(one) for one in messages(digests)]
    for path in (*HIDDEN_PATHS, *(f"/v1/models/{name}" for name in files)):
        yield from ((method, path, b"", names[1]) for method in METHODS)
    for route, round, one in product({route.path for route in ROUTES}, (1, 2), digests):
        path = route.replace("{round}", str(round)).replace("{digest}", one)
        for method, query, name in product(METHODS, about, names):
            yield method, path + query, b"", name
        for body, name in product(bodies, names):
            yield "POST", path, body, name
            yield "PUT", path + "?offset=0&size=100", body, name


def messages(digests):
    """Messages of the wire, about what others have announced and were asked."""
    theirs, model = digests[0], digests[-1]
    return (
        Poll("run", 1, 0.0, 1),
        Decline("run", 2, "no"),
        TrainingFailure("run", 2, "train", "no"),
        Measured("run", 2, model, {"rows": 1.0}),
        Progress("run", 2, 1),
        UpdateHeader("run", 1, theirs, 100, 9.0, {}),
        Hello(VERSIONS, "ann", "f" * 64, 9),
    )


def training_of(name, draw):
    """An update of a member's own, and what it tells of it."""
    tree = update_template(OPEN)
    for key, part in tree["payload"].items():
        tree["payload"][key] = draw.normal(size=part.shape).astype(part.dtype)
    body, rows = b"".join(encode(tree)), ROWS if name == "ann" else 9
    told = {"rows": float(rows), "loss": LOSS * rows, "steps": float(-(-rows // 4)), "drift": 0.0}
    return body, UpdateHeader("run", 1, digest([body]), len(body), float(rows), told)


def test_of_others_it_gets_no_update_rows_record_or_secret(hub_of):
    hub = hub_of(OPEN)
    hub.ledger.note(secret=SECRET)
    mark, draw = hub.round_state.facts.fingerprint, np.random.default_rng(5)
    hub.ask("ann", "POST", "/v1/hello", to_json(Hello(VERSIONS, "ann", mark, ROWS)))
    made = {name: training_of(name, draw) for name in OTHERS}
    digests, answers = [update.digest for _, update in made.values()], {}

    def turn():
        """The others upload; the spy asks for all, and then takes no part."""
        if answers:
            hub.ask(SPY, "POST", "/v1/answers", to_json(Decline("run", 1, "no")))
            return True
        files = []
        for name, (body, update) in made.items():
            assert isinstance(hub.poll(name), TrainAssignment)
            assert hub.ask(name, "POST", "/v1/updates", to_json(update)).status == 200
            where = f"/v1/updates/1/{update.digest}?offset=0&size={len(body)}"
            assert hub.ask(name, "PUT", where, body).status == 200
            files.append(update_name(1, hub.round_state.members[name].client, update.digest))
            assert hub.ledger.blobs.size(files[-1]) == len(body), "it lies there"
        model = hub.poll(SPY).model
        for one in asked_of(hub, [*digests, model], files):
            answers[one] = hub.ask(SPY, *one[:3], headers=one[3])
        answers["model"] = hub.ask(SPY, "GET", f"/v1/models/{model}")
        return True

    hub._act = turn
    hub.network.send(Cohort(tuple(hub.names), None), start(OPEN).sent(), 1)
    replies = list(hub.network.replies())
    assert {c for one in replies for c in getattr(one, "clients", ())} == set(OTHERS)
    assert digest([answers["model"].body]) == hub.round_state.opened.model, "a model it does get"
    public = {hub.edge.endpoint.plan, hub.edge._pages["/openapi.json"], answers["model"].body}
    needles = {SECRET.encode(), b"%d" % ROWS, b"3.14159", b"update-000001"}
    for body, _ in made.values():  # its numbers, behind the head that every file has
        pieces = {body[i : i + 16] for i in range(len(body) % 16, len(body), 16)}
        needles |= {piece for piece in pieces if piece not in answers["model"].body}
    assert len(needles) > 3 * 10 and len(answers) > 1500
    for asked, answer in answers.items():
        assert not [needle for needle in needles if needle in answer.body], (asked, answer.body)
        if answer.body not in public:
            assert len(answer.body) < 1000, asked
            assert not any(b'"%s"' % name.encode() in answer.body for name in OTHERS), asked


def test_of_a_masked_round_it_gets_its_own_part_and_what_all_are_told(hub_of):
    """It asks at each step, in its own name and in that of others, before its own turn comes."""
    hub = hub_of(plan_of(rounds=3))
    heard = []

    def between(played):
        for after, query in product(range(3), ("", "&name=ann", "&client=ann")):
            path = f"/v1/secure/1?attempt=1&after={after}&wait=0{query}"
            heard.append(hub.ask(SPY, "GET", path, headers=((b"muster-site", b"ann"),)).body)
        members = ("/v1/members?round=1", "/v1/members?round=1&name=ann")
        heard.extend(hub.ask(SPY, "GET", path).body for path in members)

    played = hub.sum(between=between)
    assert played.found is not None and set(played.found.survivors) == set(NAMES)
    theirs = []
    for name in OTHERS:
        for said in played.members[name].said:
            if isinstance(said, Shares):
                theirs += [said.sealed, said.proof]
            if isinstance(said, MaskedVector):
                theirs.append(said.vector)
            if isinstance(said, Revealed | OpenedShares):
                theirs.append(said.shares)
    told = [type(message) for message in map(_read, heard) if message is not None]
    assert Delivery in told and len(heard) > 40
    assert len(theirs) == 4 * len(OTHERS)
    for body in heard:
        assert not any(secret in body for secret in theirs)
    deliveries = {body for body in heard if isinstance(_read(body), Delivery)}
    assert len(deliveries) == 1, "what was dealt to it, and to nobody else"


def _read(body):
    """The message that an answer is; None for another one."""
    try:
        return read(body)
    except (Malformed, ValueError):
        return None


def test_of_a_round_of_two_the_next_model_shows_the_other():
    """As the table says: from the next model and its own update, by subtraction; more hide it."""
    people = population(("ann", "bob", "eve"))

    def step(*names, stages=()):
        some = muster.Population.from_arrays({name: people[name] for name in names})
        plan = muster.Plan(
            task=tasks.numpy.MLP([4, 5, 3]),
            algorithm=algorithms.FedAvg(),
            rounds=1,
            local=Local(epochs=1, batch=64, optimizer=optimizers.SGD(0.1)),
            weighting="equal",
            pipeline=stages,
            evaluate=Every(clients=0),
            dtype="float64",
        )
        before = np.asarray(start(plan).sent().algorithm.x)
        return np.asarray(muster.simulate(plan, some, workers=1).parameters) - before

    own, other = step("eve"), step("bob")
    assert np.abs(2 * step("eve", "bob") - own - other).max() < 1e-12
    assert np.abs(3 * step("eve", "bob", "ann") - own - other).max() > 1e-4
    clipped = [pipeline.Clip(1e-3)]
    assert np.linalg.norm(2 * step("eve", "bob", stages=clipped)) < 2.1e-3
