# SPDX-License-Identifier: Apache-2.0
"""Everything nobody trains is a body of its own, and a model's body names it by its digest."""

import numpy as np
import pytest
from tests.federation.site.scene import PLANS, frozen_plan

from muster.federation.protocol import frozen
from muster.federation.protocol.codec_tensors import decode, encode, largest
from muster.federation.protocol.template import frozen_template, sent_template
from muster.rounds import start
from muster.security.refusal import Refused


def body_of(sent):
    return b"".join(encode(sent))


def test_both_bodies_together_are_what_was_sent():
    plan = frozen_plan(inputs=200)
    sent, template = start(plan).sent(), sent_template(plan)
    named = frozen.digest_of(sent.frozen)
    each, once = body_of(frozen.without(sent, named)), body_of(frozen.once(sent.frozen))
    assert frozen.named_in(each, template) == named
    assert np.array_equal(decode(each, template).algorithm.x, sent.algorithm.x)
    assert np.array_equal(decode(once, frozen_template(plan))["frozen"], sent.frozen)
    assert len(each) <= largest(template) < sent.frozen.nbytes < len(once)
    assert len(once) <= largest(frozen_template(plan))


def test_another_number_that_nobody_trains_is_another_model():
    sent = start(frozen_plan()).sent()
    other = sent.frozen.copy()
    other[0] = np.nextafter(other[0], np.inf)
    bodies = {
        body_of(frozen.without(sent, frozen.digest_of(still))) for still in (sent.frozen, other)
    }
    assert len(bodies) == 2


def test_a_plan_that_trains_all_names_none():
    plan = PLANS["plain"]
    assert frozen_template(plan) is None and sent_template(plan).frozen is None
    assert frozen.named_in(body_of(start(plan).sent()), sent_template(plan)) is None


@pytest.mark.parametrize("cut", [0, 7, 8, 100])
def test_a_body_that_is_not_whole_is_refused(cut):
    plan = frozen_plan()
    sent = start(plan).sent()
    body = body_of(frozen.without(sent, frozen.digest_of(sent.frozen)))
    with pytest.raises(Refused):
        frozen.named_in(body[:cut], sent_template(plan))
    with pytest.raises(Refused):
        frozen.named_in(body_of(sent), sent_template(plan))  # all in one
