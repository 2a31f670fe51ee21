# SPDX-License-Identifier: Apache-2.0
"""The document says what the server does: tried by schemathesis, operation by operation."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from tests.transport.http.stand import Desk, edge_over

from muster.federation.protocol import message
from muster.federation.protocol.codec_json import rules
from muster.transport.http.openapi import document

checks = schemathesis.checks


def test_every_message_stands_in_it_with_its_fields():
    schemas = document()["components"]["schemas"]
    kinds = [
        k
        for k in vars(message).values()
        if isinstance(k, type)
        and k.__module__ == message.__name__
        and issubclass(k, message.Message)
    ]
    assert sorted(schemas) == sorted([kind.__name__ for kind in kinds] + ["Fault"])
    for kind in kinds:
        assert list(schemas[kind.__name__]["properties"]) == ["kind", *rules(kind)]
    assert json.loads(json.dumps(document())) == document()


@pytest.mark.parametrize("number", range(11))
def test_the_server_keeps_to_it(tmp_path, number):
    with edge_over(tmp_path, Desk(keeps=False)) as (edge, service, _):
        found = schemathesis.openapi.from_asgi("/openapi.json", app=edge)
        operations = [one.ok() for one in found.get_all_operations()]
        assert len(operations) == 11
        operation = operations[number]

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def try_it(case):
            answer = case.call(headers={"Muster-Site": "lyon"})
            # What a schema cannot say (printable, ordered, finite) is refused with a 400.
            case.validate_response(answer, excluded_checks=[checks.positive_data_acceptance])

        try_it()
        assert not service.seats
