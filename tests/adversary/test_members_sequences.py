# SPDX-License-Identifier: Apache-2.0
"""A member that lies in a secure sum by when it says what: twice, again, of elsewhere, out of turn.

The server may be started again before any word. What must hold is what `Sum.check` says: the round
ends, the honest are in its sum, which is right to the bit, and nobody but the liar is named.
"""

import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary import certificates
from tests.adversary.lies import at
from tests.adversary.members import LEASE, LIAR, NAMES, Hub, elsewhere, honest
from tests.adversary.mutants import NUMBERS, object_mutants
from tests.federation.coordinator.masked import plan_of

from muster import Every, pipeline
from muster.federation.coordinator import clients, secagg
from muster.federation.coordinator.events import Said, row_of
from muster.federation.protocol.claims import check_training
from muster.federation.protocol.codec_json import LIMIT, Numbers
from muster.federation.protocol.limits import STEP, WORK
from muster.federation.protocol.message import (
    VERSIONS,
    Decline,
    Hello,
    Progress,
    Settled,
    TrainingFailure,
    to_json,
)
from muster.federation.site.secagg import HOURS
from muster.secagg.agreement import Binding
from muster.secagg.commitments import root
from muster.secagg.messages import (
    Advert,
    Compared,
    Consent,
    MaskedVector,
    Quit,
    Revealed,
    Shares,
)
from muster.secagg.session import SessionStep, bitmap
from muster.security import pki
from muster.security.refusal import RefusalReason, Refused, parse
from muster.store.records import SecAggEvent

STEPS = (Advert, Shares, Compared, MaskedVector, Consent, Revealed)
PLAN = plan_of(layers=(4, 3), rounds=100_000)
OPEN = replace(PLAN, pipeline=(), evaluate=Every(1))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    made = Hub(tmp_path_factory.mktemp("hub"), PLAN)
    yield made
    made.close()


def played(hub, lie, **more):
    """A round with a lie, checked and over."""
    made = hub.sum(lie, **more)
    try:
        made.check()
    finally:
        hub.commit(made.found.survivors if made.found else ())
    return made


@pytest.mark.parametrize("kind", STEPS)
def test_a_message_said_again_and_another_of_its_kind_change_nothing(kind, hub):
    other = {Advert: bytes(32)}.get(kind, b"")

    def says(message, member):
        data = message.to_bytes()
        twin = data[:5] + bytes([data[5] ^ 1]) + data[6:] + other[:0]
        return [data, data, twin, data]

    made = played(hub, at(kind, says))
    assert set(made.found.survivors) == set(NAMES)
    assert [a.reason for a in made.answers[LIAR]].count(RefusalReason.DUPLICATE) == 1


def test_words_of_another_round_run_study_or_attempt_are_none_of_this_one(hub):
    """Each word of one other session, and the first two of each."""
    changes = ({"round": 1 << 20}, {"run": "other"}, {"study": "other"}, {"attempt": 2}, {})
    for place, change in enumerate(changes):
        for said in elsewhere(hub, **change)[0][LIAR][: 2 if place else None]:
            made = played(hub, at(type(said), lambda message, member, said=said: [said.to_bytes()]))
            assert LIAR not in made.found.survivors or isinstance(said, Consent | Revealed)


def test_words_of_elsewhere_under_the_id_of_this_session_are_none_of_it(hub):
    for said in elsewhere(hub, run="other")[0][LIAR][1:]:
        if isinstance(said, MaskedVector):
            continue  # any octets of its length are a masked vector: see `Lie`

        def spliced(message, member, said=said):
            return [said.to_bytes()[:5] + message.session + said.to_bytes()[37:]]

        played(hub, at(type(said), spliced))


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("later", STEPS)
def test_words_out_of_turn_cost_their_sender_alone(kind, later, hub):
    """Words come before their time, or from the round before, and silence after them."""
    words = {type(said): said for said in elsewhere(hub)[0][LIAR]}

    def says(message, member):
        return [words[later].to_bytes(), message.to_bytes()]

    made = hub.sum(at(kind, says))
    changed = None
    made.check(changed)
    hub.commit(made.found.survivors)


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("how", ["silent", "quits", "declines", "fails"])
def test_a_member_that_leaves_between_any_two_words_costs_itself_alone(kind, how, hub):
    def says(message, member):
        member.ended = how
        if how == "quits":
            return [Quit("STOPPED").to_bytes(), message.to_bytes()]
        if how == "silent":
            return []
        said = Decline("run", hub.round, "no") if how == "declines" else None
        said = said or TrainingFailure("run", hub.round, "train", "it failed")
        hub.ask(LIAR, "POST", "/v1/answers", to_json(said))
        return []

    played(hub, at(kind, says))


@pytest.mark.parametrize("kind", STEPS[:-1])
def test_a_server_that_is_started_again_at_any_word_goes_on_with_the_same_bits(kind, hub):
    """The liar's message is played again from the record, with one that is refused behind it."""

    class Stop(BaseException):
        """The engine dies here."""

    def says(message, member):
        hub.pending = message
        return [message.to_bytes(), Consent(bytes(32), b"x").to_bytes()]

    stopped = []

    def between(made):
        if hub.pending is not None and not stopped:
            stopped.append(True)
            raise Stop

    hub.pending = None
    first = None
    try:
        first = hub.sum(at(kind, says), between=between)
    except Stop:
        members = hub.last.members
        hub.begin()
        first = hub.sum(honest, members=members)
    first.check()
    hub.commit(first.found.survivors)
    assert stopped


def test_what_a_member_says_beside_a_message_is_refused_or_harmless(hub):
    """Address and headers: a round, an attempt, a place, a size, a digest, metrics."""

    def says(message, member):
        data, sent = message.to_bytes(), []
        digest = sha256(data).hexdigest()
        whole = {"digest": digest, "size": str(len(data)), "offset": "0"}
        for odd in NUMBERS:
            if odd.isascii() and " " not in odd:
                sent += [(data, {"attempt": odd}, {})] if odd not in ("", "1.5") else []
                sent += [(b"", whole | {"size": odd}, {}), (b"", whole | {"offset": odd}, {})]
        sent += [(data, {"digest": odd}, {}) for odd in ("x", "", "0" * 63, "/" * 64, "é" * 64)]
        return [*sent, (data, {}, {})]

    def lie(message, member):
        return says(message, member) if isinstance(message, Advert) else honest(message)

    made = played(hub, lie)
    assert set(made.found.survivors) == set(NAMES)
    refused = {answer.reason for answer in made.answers[LIAR] if answer.status != 200}
    assert refused <= {
        RefusalReason.MALFORMED,
        RefusalReason.TOO_LARGE,
        RefusalReason.STALE,
        RefusalReason.WRONG_DIGEST,
    }


def test_every_field_of_metrics_beside_a_message_is_refused_or_harmless(tmp_path):
    """Public metrics: whatever stands in the header, a record can be made of the round."""
    secure = pipeline.SecureSum(metrics="public")
    plan = plan_of(layers=(4, 3), rounds=1000, secure=secure, evaluate=Every(1, clients=0))
    hub = Hub(tmp_path, plan)
    told = {"rows": 5.0, "loss": 0.5, "steps": 2.0, "drift": 0.0}
    odd = {
        mutant.data.decode("latin-1").removeprefix('{"metrics":').removesuffix("}")
        for mutant in object_mutants("metrics", {"metrics": told}, {"metrics": "Numbers"})
        if len(mutant.data) < 9000
    }
    refused, taken = [], []
    for text in sorted(odd - {""}):
        try:
            said = Numbers().read(parse(text.encode("latin-1"), LIMIT, 1), "metrics")
            check_training(said, (), hub.service.facts.claims)
            taken.append(text)
        except Refused:
            refused.append(text)
    assert len(refused) > 15 and taken, (len(refused), taken)
    for texts in ([*refused, "{}"], *([text] for text in taken)):

        def told_beside(message, member, texts=texts):
            if not isinstance(message, Advert):
                return honest(message)
            return [(message.to_bytes(), {}, {"muster-metrics": text}) for text in texts]

        made = hub.sum(told_beside)
        made.check()
        assert set(made.found.survivors) == set(NAMES), "the last of them was taken"
        for reply in made.replies:
            json.dumps(dict(getattr(reply, "metrics", {})), allow_nan=False)
        hub.commit(made.found.survivors)
    hub.close()


def test_a_word_that_is_stored_and_is_none_ends_no_engine(hub):
    """As an older release stored it: a member that leaves, in octets that are no message."""

    def between(made):
        if made.members[LIAR].number == 1 and not stored:
            row = row_of(Said(hub.round, 1, SecAggEvent(LIAR, str(Quit.kind), b"msa\x02\x0e?")))
            hub.ledger.write(lambda turn: turn.append([row], leads=False)).result()
            hub.round_state.follow()
            stored.append(row)

    stored = []
    made = played(hub, honest, between=between)
    assert stored and made.found is not None


def test_a_member_begins_one_large_message_at_a_time(hub):
    """Pieces of many that are never finished would fill the disk of a server."""
    seen = []

    def lie(message, member):
        if not isinstance(message, Shares):
            return honest(message)
        many = [Shares(bytes(32), bytes([n]) * 50_000, b"", b"", b"").to_bytes() for n in range(5)]
        begun = [
            (d[:1000], {"digest": sha256(d).hexdigest(), "size": str(len(d)), "offset": "0"}, {})
            for d in many
        ]
        return [*begun, *honest(message)]

    def between(made):
        seen.append(len(hub.ledger.blobs.names("masked-")))

    made = played(hub, lie, between=between)
    assert max(seen) == 1
    assert set(made.found.survivors) == set(NAMES)


@pytest.fixture(scope="module")
def renewed(hub):
    """The liar's other identity: renewed, and the first one is still valid."""
    return pki.Notary(certificates.renewed(hub.home, LIAR))


@pytest.mark.parametrize("kind", [Advert, Shares, Compared, Consent])
def test_a_member_with_two_certificates_frames_nobody(kind, hub, renewed):
    """It says hello by the other one when the others have its first, and signs by that."""

    def says(message, member):
        hello = Hello(VERSIONS, LIAR, hub.round_state.facts.fingerprint, 1)
        hub.ask(LIAR, "POST", "/v1/hello", to_json(hello), pem=renewed.certificate)
        first, member.notary.sign = member.notary.sign, renewed.sign
        try:
            return [signed(message, member).to_bytes(), message.to_bytes()]
        finally:
            member.notary.sign = first

    try:
        played(hub, at(kind, says))
    finally:
        hub.begin()  # everybody says hello again


def signed(message, member):
    """A message with its signature made anew, by the key that its member has now."""
    if isinstance(message, Advert):
        entry = message.entry
        return Advert(
            message.context,
            replace(entry, signature=member.notary.sign(entry.statement(message.context))),
        )
    binding = Binding(message.session, member.terms.context)
    if isinstance(message, Compared):
        return member.complaint(0)
    if isinstance(message, Shares):
        statement = binding.dealing(root(message.leaves), message.proof)
    else:
        everybody = bitmap(np.ones(len(NAMES), np.bool_))
        statement = binding.consent(everybody, everybody)
    return replace(message, signature=member.notary.sign(statement))


@pytest.mark.parametrize("kind", STEPS)
def test_a_member_that_says_the_same_for_ever_holds_no_round(kind, hub):
    """It repeats its last word, and says no other: that is no progress."""
    said = []

    def lie(message, member):
        if isinstance(message, kind):
            member.ended = "repeats"
            said.append(message.to_bytes())
        return honest(message)

    def between(made):
        if said and kind is not Revealed:
            made.post(LIAR, said[0])

    hub.turns.stride = LEASE / 3  # the time that goes by between two of them
    try:
        made = played(hub, lie, between=between)
    finally:
        hub.turns.stride = math.inf
    assert LIAR in made.found.survivors or STEPS.index(kind) < STEPS.index(MaskedVector)


@pytest.mark.parametrize("kind", STEPS[:-1])
@pytest.mark.parametrize("deadline", [60.0, None])
def test_a_member_that_works_for_ever_holds_no_round_beyond_its_deadline(
    deadline, kind, tmp_path, monkeypatch
):
    """It tells of progress, and never of an end: each step has the time of the plan's deadline.

    A plan without one has the time that `limits` say, which is short here.
    """
    monkeypatch.setattr(clients, "WORK", 90.0)
    monkeypatch.setattr(secagg, "STEP", 60.0)
    hub = Hub(tmp_path, plan_of(layers=(4, 3), rounds=1000, deadline=deadline))
    working, steps = [], iter(range(1, 10_000))

    def lie(message, member):
        if isinstance(message, kind):
            member.ended = "works"
            working.append(True)
        return honest(message)

    def between(made):
        if working:
            progress = Progress("run", hub.round, next(steps))
            hub.ask(LIAR, "POST", "/v1/answers", to_json(progress))

    hub.turns.stride = LEASE / 3
    played(hub, lie, between=between)
    hub.close()


@pytest.mark.parametrize("deadline", [60.0, None])
@pytest.mark.parametrize("how", ["steps", "polls"])
def test_a_member_that_measures_for_ever_holds_no_evaluation(how, deadline, tmp_path, monkeypatch):
    """It tells of progress, or fetches what it is to do again and again."""
    monkeypatch.setattr(clients, "WORK", 60.0)
    hub = Hub(tmp_path, replace(OPEN, deadline=deadline))
    steps, told = iter(range(1, 10_000)), []

    def lie(asked):
        told.append(asked)
        return []

    def between():
        if told and how == "steps":
            progress = Progress("run", hub.round, next(steps))
            hub.ask(LIAR, "POST", "/v1/answers", to_json(progress))
        elif told:
            hub.poll(LIAR)

    hub.turns.stride = LEASE / 3
    begun = hub.turns.now
    found = hub.evaluation(lie, between)
    assert set(found) == set(NAMES) - {LIAR} and hub.turns.now - begun < 90
    assert (
        "have passed" in hub.round_state.seats[LIAR].text
        or "deadline" in hub.round_state.seats[LIAR].text
    )
    hub.close()


def test_a_sum_that_somebody_holds_ends_before_the_secrets_of_the_others_do():
    later = [step for step in SessionStep if step not in (SessionStep.ADVERTISE, SessionStep.OVER)]
    assert WORK + len(later) * STEP < 3600 * HOURS


def test_a_question_about_a_round_long_ago_reads_one_record(hub, monkeypatch):
    """A member asks a hundred times a second: no question may cost more as a run grows."""
    first = hub.round
    for _ in range(70):
        hub.commit(NAMES)
    monkeypatch.setattr(hub.ledger, "history", None)
    told = hub.poll(LIAR, pending=first)
    assert isinstance(told, Settled) and told.accepted and told.round == first
    assert not hub.poll(LIAR, pending=hub.round - 1).attempt > 1


def test_a_member_that_renews_while_a_round_is_open_costs_nothing_after_a_restart(hub, renewed):
    """The server is started again, and knows its members by the certificates of the beginning."""

    class Stop(BaseException):
        """The engine dies here."""

    stopped = []

    def between(made):
        if made.members[LIAR].number == 2 and not stopped:
            stopped.append(True)
            raise Stop

    try:
        hub.sum(honest, between=between)
    except Stop:
        members, before = hub.last.members, hub.certificates[LIAR]
        hub.certificates[LIAR] = renewed.certificate
        hub.begin()
        made = hub.sum(honest, members=members)
        hub.certificates[LIAR] = before
    hub.begin()
    made.check()
    assert stopped and set(made.found.survivors) == set(NAMES)
    hub.commit(made.found.survivors)


def test_a_member_that_is_revoked_while_a_round_is_open_costs_nothing_after_a_restart(tmp_path):
    """Its words before are in the record: the server stands where it fell."""
    hub = Hub(tmp_path, PLAN)

    class Stop(BaseException):
        """The engine dies here."""

    stopped = []

    def between(made):
        if made.members[LIAR].number == 2 and not stopped:
            stopped.append(True)
            raise Stop

    try:
        hub.sum(honest, between=between)
    except Stop:
        pki.revoke(tmp_path / "authority", LIAR, "left", datetime.now(UTC))
        shutil.copy(tmp_path / "authority" / "revoked.pem", tmp_path / "hub" / "revoked.pem")
        hub.begin()
        made = hub.sum(honest, members=hub.last.members, away={LIAR})
    made.check()
    assert stopped
    hub.close()


@pytest.mark.parametrize(
    ("reason", "standing"),
    [("PEERS", "declined"), ("STOPPED", "declined"), ("SIGNATURE", "failed")],
)
def test_a_site_that_leaves_for_who_is_there_has_not_failed(reason, standing, hub):
    """Else whoever is not welcome to it has it left out, by being there three times."""
    made = played(hub, at(Advert, lambda *_: [Quit(reason).to_bytes()]))
    assert made.seats[LIAR].standing == standing
