# SPDX-License-Identifier: Apache-2.0
"""The matrix of the kit: who says what, which test lies about it, and which one says it again.

A message, a request, a word of a secure sum or a route of the operator that the protocol has and
this table has not fails here. That each field of it has mutants of each kind is asserted where the
table points to, over the fields that the definitions of the wire have.
"""

import re
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary import (
    test_evaluation_messages,
    test_members_messages,
    test_members_sequences,
    test_operators_door,
    test_requests,
    test_said_again,
    test_sites_answers,
    test_sites_messages,
    test_sites_updates,
    test_told_again,
    test_update_messages,
)

import muster
from muster.federation.protocol import message
from muster.federation.protocol.message import (
    Ack,
    Decline,
    Evaluate,
    Hello,
    Measured,
    Message,
    Poll,
    Progress,
    ResumeAt,
    RunEnded,
    Settled,
    TrainAssignment,
    TrainingFailure,
    UpdateHeader,
    Wait,
    Welcome,
)
from muster.secagg import messages as secure
from muster.secagg.messages import CLIENT_KINDS
from muster.transport.http.openapi import document
from muster.transport.routes import ROUTES

evaluation, updates, down = test_evaluation_messages, test_update_messages, test_sites_updates
asks = evaluation.test_whatever_a_member_asks_it_has_an_answer
measures = evaluation.test_whatever_a_member_answers_the_others_are_measured
trains = updates.test_every_field_of_an_answer_in_a_training_may_lie
tells = evaluation.test_a_site_does_what_plan_and_policy_say_whatever_it_is_asked
acks = down.test_every_field_of_what_answers_an_update_may_lie
AGAIN = (
    test_said_again.test_after_a_restart_nothing_old_counts_in_a_new_round,
    test_said_again.test_nothing_said_in_one_run_counts_in_another,
)
TOLD_AGAIN = (
    test_told_again.test_after_a_restart_nothing_is_done_a_second_time,
    test_told_again.test_nothing_that_was_told_in_one_run_is_done_in_another,
)
joins = evaluation.test_a_site_joins_what_it_can_whatever_it_is_welcomed_with
welcomed = test_told_again.test_another_run_is_not_joined_because_it_tells_of_this_one

SITE_SAYS = {  # message: lies, and those that say it again
    Hello: (asks, *AGAIN),
    Poll: (asks, *AGAIN),
    UpdateHeader: (
        updates.test_every_field_of_an_announcement_may_lie,
        updates.test_whatever_is_announced_and_taken_costs_its_sender_alone,
        *AGAIN,
    ),
    Decline: (trains, measures, *AGAIN),
    TrainingFailure: (trains, measures, *AGAIN),
    Progress: (trains, measures, *AGAIN),
    Measured: (measures, *AGAIN),
}
SERVER_SAYS = {
    Welcome: (joins, welcomed),
    TrainAssignment: (tells, *TOLD_AGAIN),
    Evaluate: (tells, *TOLD_AGAIN),
    Settled: (tells, *TOLD_AGAIN),
    Wait: (tells, acks, *TOLD_AGAIN),
    RunEnded: (tells, *TOLD_AGAIN),
    ResumeAt: (acks, *TOLD_AGAIN),
    Ack: (acks, *TOLD_AGAIN),
}
SECURE = {
    "site": (
        test_members_messages.test_every_field_of_every_message_has_mutants_of_every_kind,
        test_members_messages.test_a_message_with_another_field_harms_nobody_but_its_sender,
        test_members_sequences.test_words_of_another_round_run_study_or_attempt_are_none_of_this_one,
        test_said_again.test_no_old_word_of_a_secure_sum_harms_another,
    ),
    "server": (
        test_sites_messages.test_every_field_of_every_message_has_mutants_of_every_kind,
        test_sites_messages.test_a_message_with_another_field_opens_nothing,
        test_sites_messages.test_after_its_session_a_site_says_no_more_of_it,
        test_sites_messages.test_messages_of_another_round_run_study_or_attempt_open_nothing,
    ),
}
BODIES = {  # what lies in no message: by who says it
    "an update": updates.test_every_part_of_a_body_may_lie,
    "a model": down.test_every_part_of_a_model_may_lie,
    "a model's headers": down.test_every_header_and_status_of_a_models_answer_may_lie,
    "the plan": down.test_every_field_of_the_servers_plan_may_lie,
    "members and the list of the revoked": (
        test_sites_answers.test_every_field_of_what_is_handed_out_about_members_may_lie
    ),
    "metrics beside a message": (
        test_members_sequences.test_every_field_of_metrics_beside_a_message_is_refused_or_harmless
    ),
}


def kinds_in(part):
    """The names of the messages that a part of the document refers to."""
    return set(re.findall(r"#/components/schemas/(\w+)", str(part))) - {"Fault"}


def test_every_message_of_the_wire_is_lied_about_by_whoever_says_it():
    said, told = set(), set()
    for methods in document()["paths"].values():
        for operation in methods.values():
            said |= kinds_in(operation.get("requestBody"))
            told |= kinds_in(operation["responses"])
    assert {kind.__name__ for kind in SITE_SAYS} == said
    assert {kind.__name__ for kind in SERVER_SAYS} == told
    everything = {kind for kind in Message.__subclasses__() if kind.__module__ == message.__name__}
    assert everything == {*SITE_SAYS, *SERVER_SAYS}


def test_every_word_of_a_secure_sum_is_lied_about_by_whoever_says_it():
    site, server = test_members_messages.SAID, test_sites_messages.TOLD
    assert site == {secure.KINDS[number] for number in CLIENT_KINDS}
    assert site | server == set(secure.KINDS.values()) and not site & server


def test_every_request_and_route_is_lied_about():
    """The requests of sites: by the document; those of operators: by what their door answers."""
    paths = {
        f"{method.upper()} {address}"
        for address, methods in document()["paths"].items()
        for method in methods
    }
    assert set(test_requests.SAMPLES) == paths
    source = Path(muster.__file__).parent / "transport" / "http" / "operator.py"
    routes = set(re.findall(r'"((?:GET|POST) /[a-z/]+)"', source.read_text(encoding="utf-8")))
    known = {route.name.partition("{")[0] for route in test_operators_door.ROUTES}
    assert routes == known and len(routes) == 5


def test_every_header_and_query_that_is_read_stands_in_the_document():
    """Else a field of a request would be without lies: see `requests.FIELDS`."""
    source = Path(muster.__file__).parent / "transport" / "http"
    text = "".join(path.read_text(encoding="utf-8") for path in source.glob("*.py"))
    read = {name.title() for name in re.findall(r'headers?(?:\.get)?\(b"([a-z-]+)"', text)}
    read |= set(re.findall(r'b"(muster-metrics)"', text)) and {"Muster-Metrics"}
    queries = {name for route in ROUTES for name in route.query} | {"round", "digest"}
    named = {name for fields in test_requests.FIELDS.values() for _, name in fields}
    framing = {"Content-Length", "Muster-Site"}  # lied about in tests of their own
    assert read - named <= framing and {"Range", "Muster-Metrics"} <= read
    assert queries <= named and {"offset", "size", "attempt", "after", "wait"} <= queries


@pytest.mark.parametrize("table", [SITE_SAYS, SERVER_SAYS, SECURE, BODIES], ids=range(4))
def test_what_the_table_names_are_tests(table):
    for named in table.values():
        for test in named if isinstance(named, tuple) else (named,):
            assert test.__name__.startswith("test_"), test
            assert test.__module__.startswith("tests.adversary.test_"), test
