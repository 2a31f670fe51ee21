# SPDX-License-Identifier: Apache-2.0
"""A site with an identity, and transcripts of sums that it might have taken part in."""

from datetime import UTC, datetime, timedelta

from muster.security import pki
from muster.security.pki.notary import Peer
from muster.security.transcript import Transcript, TranscriptStore

NOW = datetime.now(UTC).replace(microsecond=0)
CROWD = tuple(
    Peer(name, organisation, f"{place:x}", f"{place:064x}")
    for place, (name, organisation) in enumerate(
        [("ann", "Inserm"), ("bob", "Hôpital Nord"), ("eve", "eve"), ("zoe", "Inserm")], 10
    )
)


def identity(home, name="ann", days=365, now=NOW):
    """A member's notary, and an authority if there is none."""
    authority = home / "authority"
    if not authority.exists():
        pki.init(authority, "Heart study", NOW - timedelta(days=30))
    request, _ = pki.ask(home / name, name)
    approval = pki.approve(authority, request, pki.Grant("https://hub:8443", days=days), now)
    pki.accept(approval.bundle, home / name, now)
    return pki.Notary(home / name)


def transcript(number=1, **changes):
    """One that a site may keep, of a round; where only `left` changes, everybody was verified."""
    facts = {
        "study": "heart",
        "run": "run-1",
        "round": number,
        "attempt": 1,
        "session": f"{number:064x}",
        "terms": {"cohort": 4, "plan": "ab" * 32},
        "revoked": 2,
        "roster": CROWD,
        "left": (("share", ("ann", "bob", "eve", "zoe")), ("mask", ("ann", "bob", "zoe"))),
        "counts": (("share", 4), ("mask", 3)),
        "outcome": "opened",
        "reason": "",
        "began": NOW + timedelta(minutes=number),
        "ended": NOW + timedelta(minutes=number, seconds=30),
    }
    if changes.get("left") == ():
        facts["counts"] = ()
    return Transcript(**facts | changes)


def filled(folder, notary, count=5, **more):
    """A store with some transcripts."""
    store = TranscriptStore(folder, "heart", notary, **more)
    for round in range(1, count + 1):
        store.record(transcript(round))
    return store
