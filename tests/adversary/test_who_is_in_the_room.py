# SPDX-License-Identifier: Apache-2.0
"""Attacks on who may take part: lists of another day, and rooms full of the operator's own."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("uvicorn")

from tests.adversary.certificates import joined, renewal
from tests.federation.coordinator.masked import certificate
from tests.transport.http.stand import Federation

from muster.errors import IdentityError
from muster.federation.protocol.transport import LineFault, PlanQuery
from muster.federation.site.peers import PeerRules
from muster.security import identity, pki
from muster.security.identity import Grant
from muster.security.pki.certificate import Authority
from muster.security.pki.credentials import Credentials, read_credentials
from muster.security.pki.revocation import sign_list
from muster.transport.http.client import HTTPTransport
from muster.transport.http.protocol import Trust

LIST = "revoked.pem"


def now():
    return datetime.now(UTC)


@pytest.fixture
def fed(tmp_path):
    """An authority, a server, and the sites ann, bob and eve."""
    made = Federation(tmp_path)
    for name in ("ann", "bob", "eve"):
        made.join(name)
    return made


def signed(fed, name):
    """A statement and its signature by a member, whatever else has become of it."""
    return b"words", pki.Notary(fed.folder / name).sign(b"words")


def thrown_out(fed, name, *homes):
    """Revoke a member and carry the list to some folders; the list of before."""
    old = (fed.hq / LIST).read_bytes()
    pki.revoke(fed.hq, name, "compromised", now())
    for home in homes:
        shutil.copy(fed.hq / LIST, home / LIST)
    return old


def test_an_older_list_put_back_at_a_stopped_server_does_not_bring_a_revoked_member_back(fed):
    who = identity.holder(certificate(fed.folder, "eve").encode())
    old = thrown_out(fed, "eve", fed.hub)
    with pytest.raises(IdentityError, match="is revoked"):
        identity.admit(who, "site", Trust(fed.hub).revoked(), now())
    (fed.hub / LIST).write_bytes(old)
    with pytest.raises(IdentityError, match=r"number 0.*number 1"):
        identity.admit(who, "site", Trust(fed.hub).revoked(), now())
    with pytest.raises(IdentityError, match=r"number 0.*number 1"):
        pki.revoked(fed.hub)


def test_an_older_list_put_back_at_a_running_server_changes_nothing_and_is_named(fed, caplog):
    trust = Trust(fed.hub)
    old = thrown_out(fed, "eve", fed.hub)
    trust.look()
    held = trust.revoked()
    assert len(held) == 1
    (fed.hub / LIST).write_bytes(old)
    trust.look()
    assert trust.revoked() == held
    assert "number 0" in caplog.text and "number 1" in caplog.text


def test_a_server_that_runs_hears_of_a_revocation_before_it_vouches_for_a_signature(fed):
    hub, (data, mark) = pki.Notary(fed.hub), signed(fed, "eve")
    assert hub.vouch("eve", certificate(fed.folder, "eve"), data, mark)
    thrown_out(fed, "eve", fed.hub)
    assert not hub.vouch("eve", certificate(fed.folder, "eve"), data, mark)


def test_an_older_list_put_back_at_a_site_does_not_make_it_vouch_for_a_revoked_member(fed):
    home, (data, mark) = fed.folder / "ann", signed(fed, "eve")
    ann, old = pki.Notary(home), thrown_out(fed, "eve", home)
    ann.look()
    assert not ann.vouch("eve", certificate(fed.folder, "eve"), data, mark)
    (home / LIST).write_bytes(old)
    with pytest.raises(IdentityError, match=r"number 0.*number 1"):
        ann.look()
    assert not ann.vouch("eve", certificate(fed.folder, "eve"), data, mark)
    with pytest.raises(IdentityError, match=r"number 0.*number 1"):  # after a restart, too
        pki.Notary(home)


@pytest.mark.parametrize("harm", ["gone", "cut", "empty"])
def test_an_old_bundle_does_not_bring_an_older_list_where_the_newer_one_was_destroyed(fed, harm):
    grant = Grant("https://localhost:8443", "server", 365, ("localhost",))
    bundle = renewal(fed.hq, fed.hub, grant)
    thrown_out(fed, "eve", fed.hub)
    assert len(pki.revoked(fed.hub)) == 1
    whole = (fed.hub / LIST).read_bytes()
    if harm == "gone":
        (fed.hub / LIST).unlink()
    else:
        (fed.hub / LIST).write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"")
    with pytest.raises(IdentityError, match="number 1"):
        pki.accept(bundle, fed.hub, now())
    with pytest.raises(IdentityError, match="number 1"):
        pki.revoked(fed.hub)
    (fed.hub / LIST).write_bytes(whole)
    pki.accept(bundle, fed.hub, now())
    assert len(pki.revoked(fed.hub)) == 1


def test_a_revoked_member_does_not_come_back_by_a_bundle_of_before(fed):
    home = fed.folder / "eve"
    (bundle,) = home.glob("*.bundle.json")
    thrown_out(fed, "eve", home)
    with pytest.raises(IdentityError, match="is revoked"):
        pki.accept(bundle, home, now())


def test_two_lists_of_one_number_are_not_one(fed):
    thrown_out(fed, "eve", fed.hub)
    held = pki.revoked(fed.hub)
    authority = Authority(
        (fed.hq / "authority.pem").read_bytes(), (fed.hq / "authority.key").read_bytes()
    )
    (fed.hub / LIST).write_bytes(sign_list(authority, (), 1).pem)
    with pytest.raises(IdentityError, match="two lists have the number 1"):
        pki.revoked(fed.hub)
    with pytest.raises(IdentityError, match="two lists have the number 1"):
        Trust(fed.hub)
    with pytest.raises(IdentityError, match="two lists have the number 1"):
        pki.Notary(fed.hub)
    shutil.copy(fed.hq / LIST, fed.hub / LIST)
    assert pki.revoked(fed.hub) == held


def test_an_authority_that_says_a_revocation_again_makes_no_second_list_of_the_number(fed):
    thrown_out(fed, "eve", fed.hub)
    pki.revoked(fed.hub)
    before = (fed.hq / LIST).read_bytes()
    later = now() + timedelta(days=1)
    assert pki.revoke(fed.hq, "eve", "compromised", later) == []
    assert (fed.hq / LIST).read_bytes() == before
    shutil.copy(fed.hq / LIST, fed.hub / LIST)
    assert len(pki.revoked(fed.hub)) == 1


def test_the_list_of_another_authority_of_the_same_title_is_refused_everywhere(fed, tmp_path):
    other = Federation(tmp_path / "other")
    for home in (fed.hub, fed.folder / "ann"):
        notary = pki.Notary(home)
        shutil.copy(other.hq / LIST, home / LIST)
        for read in (pki.revoked, pki.Notary, lambda _, notary=notary: notary.look()):
            with pytest.raises(IdentityError, match="not signed by this authority"):
                read(home)
    with pytest.raises(IdentityError, match="not signed by this authority"):
        Trust(fed.hub)


# A server's key was stolen: the authority revokes its certificate, and the sites have the list.


def stolen(fed):
    """The certificate of the server is revoked; the thief answers with it, and logs what comes."""
    old = thrown_out(fed, "hub")
    return old, identity.server_context(fed.hub, fed.hub / "authority.pem")


def greeted(tls, context):
    """A site says hello over TLS, through a socket; what the other end has heard of it."""
    heard = []

    async def serve(reader, writer):
        heard.append(await reader.read(4))
        writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        line = HTTPTransport(f"https://localhost:{port}", "ann", tls)
        async with server:
            try:
                with pytest.raises(LineFault, match="it answered 500"):
                    await line.call(PlanQuery())
            finally:
                await line.close()

    asyncio.run(main())
    return heard


def test_no_word_is_said_to_a_server_whose_certificate_is_revoked(fed):
    ann = fed.folder / "ann"
    _, thief = stolen(fed)
    assert greeted(pki.client_context(ann), thief) == [b"GET "], "nobody has told ann"
    shutil.copy(fed.hq / LIST, ann / LIST)
    why = r"does not prove to be the federation's server .*of 'hub' is revoked"
    with pytest.raises(IdentityError, match=why):
        greeted(pki.client_context(ann), thief)


def test_a_site_that_runs_hears_of_it_with_its_next_connection(fed):
    ann = fed.folder / "ann"
    tls = pki.client_context(ann)
    old, thief = stolen(fed)
    shutil.copy(fed.hq / LIST, ann / LIST)
    for listed in (None, old):  # an older one put back changes nothing
        if listed:
            (ann / LIST).write_bytes(listed)
        with pytest.raises(IdentityError, match="is revoked"):
            greeted(tls, thief)
    with pytest.raises(IdentityError, match=r"number 0.*number 1"):
        pki.client_context(ann)


# The operator is the authority, too, and fills a round with members of its own invention.


@pytest.fixture
def room(tmp_path):
    """Two hospitals, and three names of the operator's; what a server hands out about all."""
    made = Federation(tmp_path)
    for name, organisation in (
        ("ann", "Hôpital Nord"),
        ("bob", "Inserm"),
        ("sock-1", ""),
        ("sock-2", ""),
        ("sock-3", "Inserm"),
    ):
        grant = Grant("https://localhost:8443", organisation=organisation)
        joined(made.hq, made.folder / name, name, grant)
    return made


def told(room, *names):
    """Return the server's words to ann about some members, as ann knows them once it has looked."""
    certificates = {name: certificate(room.folder, name) for name in names}
    sent = Credentials(certificates, (room.hub / LIST).read_text()).to_json()
    came, ann = read_credentials(sent), pki.Notary(room.folder / "ann")
    ann.heard(came.revoked)
    return ann.me, ann.room(came.certificates)


def test_a_round_filled_with_the_operators_own_names_is_refused_by_a_site_with_rules(room):
    socks = told(room, "ann", "sock-1", "sock-2")
    assert PeerRules().refusal(*socks) == ""  # a number alone is no protection
    assert "sock-1 (sock-1), sock-2 (sock-2)" in PeerRules(peers=("bob", "lyon*")).refusal(*socks)
    rules = PeerRules(organisations=("Inserm",))
    assert "nobody else in the sum speaks for Inserm" in rules.refusal(*socks)
    assert rules.refusal(*told(room, "ann", "bob", "sock-1")) == ""


def test_an_authority_that_invents_organisations_gets_by_the_rule_for_them_but_not_by_names(room):
    """The limit that the page of identity states."""
    crowd = told(room, "ann", "sock-1", "sock-3")
    assert PeerRules(organisations=("Inserm",)).refusal(*crowd) == ""
    assert "sock-3 (Inserm)" in PeerRules(peers=("bob", "lyon*")).refusal(*crowd)


def test_a_server_that_lets_honest_peers_fall_out_is_refused_before_anything_is_revealed(room):
    rules = PeerRules(least_peers=3, organisations=("Inserm",))
    me, crowd = told(room, "ann", "bob", "sock-1", "sock-2")
    assert rules.refusal(me, crowd) == ""
    left = [one for one in crowd if one.name != "bob"]
    assert "asks for 3" in rules.refusal(me, left)
    assert "speaks for Inserm" in PeerRules(organisations=("Inserm",)).refusal(me, left)


def test_a_peer_that_was_revoked_is_not_in_the_room_whatever_the_server_hands_out(room):
    told(room, "ann", "bob", "sock-1")
    thrown_out(room, "sock-1", room.hub)
    with pytest.raises(IdentityError, match="of 'sock-1' is revoked"):
        told(room, "ann", "bob", "sock-1")
    (room.hub / LIST).write_bytes((room.folder / "bob" / LIST).read_bytes())  # the server lags
    with pytest.raises(IdentityError, match="server's revocation list has the number 0"):
        told(room, "ann", "bob", "sock-1")
    ann = pki.Notary(room.folder / "ann")
    with pytest.raises(IdentityError, match="is that of 'sock-2', not of 'bob'"):
        ann.room({"bob": certificate(room.folder, "sock-2")})
