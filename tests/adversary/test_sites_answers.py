# SPDX-License-Identifier: Apache-2.0
"""A server that lies beside the messages of a secure sum: in headers, acknowledgements, codings.

And about who its members are, and how long to wait. Each lie meets a real site, started from what
it had stored; the rules are those of `Life.check`.
"""

import json
from itertools import chain, repeat

import httpx
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")

from tests.adversary.mutants import NUMBERS, json_mutants, object_mutants, refusal
from tests.adversary.played import SITE
from tests.adversary.rogue import answer, refused
from tests.federation.site.hub import said

from muster.federation.protocol.message import Ack, ResumeAt, Wait, to_json
from muster.federation.site.agent import LONGEST_WAIT
from muster.secagg.messages import SessionEnded
from muster.security.refusal import RefusalReason


def test_whatever_number_a_message_is_told_under_a_site_goes_on(played, lives):
    first = played.told[0]
    for odd in NUMBERS:
        made = lives(0, [answer(first, {"muster-told": odd}), *played.told[1:]])
        made.play().check()
        assert made.ended is None, (odd, made.ended)


def test_whatever_it_is_to_wait_a_site_is_back_before_its_secrets_end(played, lives):
    """`Wait` and Retry-After, in the session; a wait without end would outlive the secrets."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    for odd in (to_json(Wait(1e7)), b'{"kind":"wait","seconds":1e999}', b"x"):
        for header in ("", "\u00b2", "9" * 5000, "1e9", "-1", "Fri, 31 Dec 2199 23:59:59 GMT"):
            lie = answer(odd, {"retry-after": header})
            made = lives(3, [lie, lie], sleep=sleep).play()
            assert made.ended is None
    said = to_json(Ack(False, RefusalReason.TOO_OFTEN, "wait"))
    lie = answer(said, {"retry-after": "999999"}, 429)
    lives(3, [lie, *played.told[3:]], sleep=sleep).play().check()
    assert max(slept) <= LONGEST_WAIT


def test_an_answer_in_any_coding_is_an_answer_or_asked_for_again(played, lives):
    for coding in ("gzip", "zstd", "br", "deflate", "x", "gzip, gzip"):
        for content in (b"", b"no such coding", b"\x1f\x8b\x08", played.told[3]):
            made = lives(
                3,
                [
                    answer(content, {"content-encoding": coding, "muster-told": "1"}),
                    *played.told[3:],
                ],
            )
            made.play()
            made.check()
            assert made.ended is None, (coding, made.ended)


def test_every_field_of_an_acknowledgement_may_lie(played, lives):
    """Of a word that ann says: what is no verdict is asked for again, what refuses is believed."""
    messages = (Ack(True), Ack(False, RefusalReason.LATE, "x"), ResumeAt(1), Wait(0.0))
    lies = [mutant.data for message in messages for mutant in json_mutants(message)]
    refuses, other = [], []
    for lie in lies:
        (refuses if refusal(lie) else other).append(lie)
    assert len(other) > 100 > len(refuses)
    for some in (*(other[i : i + 60] for i in range(0, len(other), 60)), *([r] for r in refuses)):
        acks = chain((httpx.Response(200, content=lie) for lie in some), repeat(said(Ack(True))))
        made = lives(3, played.told[3:], acks=lambda request, acks=acks: next(acks))
        made.play().check()
        assert made.ended is None, made.ended


@pytest.mark.parametrize("reason", RefusalReason)
def test_whatever_reason_a_word_is_refused_for_a_site_ends_in_words(reason, played, lives):
    async def sleep(seconds):
        """No time."""

    for place in (0, 3, 5):
        acks = chain(
            [refused(reason)] * 9, repeat(refused(RefusalReason.LATE))
        )  # some are said again
        made = lives(place, played.told[place:], acks=lambda request, acks=acks: next(acks))
        made.sleep = sleep
        fatal = {
            RefusalReason.REVOKED,
            RefusalReason.WRONG_FINGERPRINT,
            RefusalReason.WRONG_VERSION,
        }
        made.play().check(over=reason not in fatal)
        assert (getattr(made.ended, "reason", None) in fatal) == (reason in fatal), made.ended


def test_every_field_of_what_is_handed_out_about_members_may_lie(played, lives):
    handed = json.loads(played.handed.to_json())
    lies = [m.data for m in object_mutants("Credentials", handed, {"format": "Number"})]
    lists = [handed["certificates"]["bob"], "x", "-----BEGIN X509 CRL-----", handed["revoked"] * 2]
    begin, end = handed["revoked"].index("\n") + 1, handed["revoked"].rindex("\n-----END")
    for at in range(begin, end, 37):  # a list that its authority has not signed so
        other = "A" if handed["revoked"][at] != "A" else "B"
        lists.append(handed["revoked"][:at] + other + handed["revoked"][at + 1 :])
    lists += [handed["revoked"][:end], "", handed["revoked"].replace("X509 CRL", "CERTIFICATE")]
    lies += [json.dumps(handed | {"revoked": odd}).encode() for odd in lists]
    other = handed["certificates"]["cid"]
    odd = [(name, other) for name in ("bob", "../x", SITE)]
    odd += [("bob", pem) for pem in ("", "x", "-----BEGIN CERTIFICATE-----\n", handed["revoked"])]
    for name, pem in odd:
        told = handed | {"certificates": handed["certificates"] | {name: pem}}
        lies.append(json.dumps(told).encode())
    for place in (0, 4):
        for chunk in (lies[i : i + 20] for i in range(0, len(lies), 20)):
            made = lives(place, played.told[place:], handed=chunk).play()
            made.check()
            assert made.ended is None


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("reason", ["DONE", "LATE", "nothing that is known"])
def test_a_sum_is_open_in_a_transcript_when_this_site_opened_it(place, reason, played, lives):
    """A server says that all is done before it is: nothing may say that a sum was opened."""
    made = lives(place, [SessionEnded(reason).to_bytes()]).play()
    made.check()
    opened = reason == "DONE" and place >= 5  # her vector is in it, and she agreed to that
    assert made.transcript().outcome == ("opened" if opened else "given up")
