# SPDX-License-Identifier: Apache-2.0
"""Entry at the door: real TLS handshakes in memory, and refusals before and after them."""

import base64
import contextlib
import json
import ssl
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from muster.errors import IdentityError
from muster.security import identity, pki
from muster.security.identity import IDENTITY, Grant, Identity
from muster.security.pki import bundle as bundles
from muster.security.pki import certificate as certificates

# A changed byte may make a serial negative, at which cryptography warns before it is refused.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
NOW = datetime.now(UTC)
SERVER = "https://localhost:8443"
DAY = timedelta(days=1)


class Federation:
    """An authority and the folders of its sites and servers."""

    def __init__(self, folder, title="Heart study", now=NOW):
        self.folder = folder
        self.hq = folder / "hq"
        self.ca = self.hq / "authority.pem"
        pki.init(self.hq, title, now)

    def join(self, name, role="site", now=NOW, days=365, hosts=()):
        home = self.folder / name
        asked, _ = pki.ask(home, name)
        done = pki.approve(self.hq, asked, Grant(SERVER, role, days, hosts), now)
        pki.accept(done.bundle, home, now)
        return home


@pytest.fixture
def round_state(tmp_path):
    """A server and a site."""
    federation = Federation(tmp_path)
    return SimpleNamespace(
        server=federation.join("hub", "server", hosts=("localhost", "127.0.0.1")),
        site=federation.join("lyon"),
        federation=federation,
        ca=federation.ca,
    )


def raw(protocol, folder, ca):
    """TLS without the checks that muster makes before a handshake."""
    context = ssl.SSLContext(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    if folder is not None:
        context.load_cert_chain(folder / IDENTITY)
    return context


def shake(server, client, name="localhost"):
    """A handshake and one message each way, in memory; the server's end of it."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    for one, other in (ends, ends[::-1]):
        one.write(b"ping")
        assert other.read() == b"ping"
    return ends[1]


def meet(round_state):
    """The server's end of a connection between the two."""
    return shake(
        identity.server_context(round_state.server, round_state.ca),
        identity.client_context(round_state.site, round_state.ca),
    )


def refused(server, client, name="localhost"):
    with pytest.raises(ssl.SSLError) as caught:
        shake(server, client, name)
    return str(caught.value)


def test_a_site_is_let_in_and_the_server_knows_who_it_is(round_state):
    end = meet(round_state)
    assert end.version() == "TLSv1.3"
    who = identity.peer_identity(end.getpeercert(True))
    assert (who.name, who.role) == ("lyon", "site")
    _, entry = pki.entries(round_state.federation.hq)
    assert (f"{who.serial:x}", who.not_after.isoformat()) == (entry.serial, entry.ends)
    assert identity.admit(who, "site", pki.revoked(round_state.federation.hq), NOW) is who


def test_an_address_is_a_name_too_and_another_host_is_not(round_state):
    server = identity.server_context(round_state.server, round_state.ca)
    client = identity.client_context(round_state.site, round_state.ca)
    shake(server, client, "127.0.0.1")
    assert "Hostname mismatch" in refused(server, client, "hub")
    assert "mismatch" in refused(server, client, "127.0.0.2")


def test_without_a_certificate_nobody_gets_in(round_state):
    bare = raw(ssl.PROTOCOL_TLS_CLIENT, None, round_state.ca)
    told = refused(identity.server_context(round_state.server, round_state.ca), bare)
    assert "PEER_DID_NOT_RETURN_A_CERTIFICATE" in told


def test_a_foreign_certificate_does_not_get_in(round_state, tmp_path):
    other = Federation(tmp_path / "other")  # of the same title
    server = identity.server_context(round_state.server, round_state.ca)
    refused(server, identity.client_context(other.join("lyon"), round_state.ca))
    foreign = identity.server_context(other.join("hub", "server"), round_state.ca)
    refused(foreign, identity.client_context(round_state.site, round_state.ca))


def test_an_expired_certificate_does_not_get_in(tmp_path):
    past = NOW - 400 * DAY
    federation = Federation(tmp_path, now=past)
    server = federation.join("hub", "server", now=NOW)
    site = federation.join("lyon", now=past, days=365)
    there = identity.server_context(server, federation.ca)
    assert "expired" in refused(there, identity.client_context(site, federation.ca))


def test_a_certificate_is_good_from_five_minutes_before_it_was_made(tmp_path):
    federation = Federation(tmp_path, now=NOW)
    asked, _ = pki.ask(tmp_path / "lyon", "lyon")
    done = pki.approve(federation.hq, asked, Grant(SERVER), NOW)
    with pytest.raises(IdentityError, match="check the clock"):
        pki.accept(done.bundle, tmp_path / "lyon", NOW - timedelta(minutes=6))
    with pytest.raises(IdentityError, match="check the clock"):
        pki.accept(done.bundle, tmp_path / "lyon", NOW + 366 * DAY)
    pki.accept(done.bundle, tmp_path / "lyon", NOW - timedelta(minutes=4))


def test_neither_role_can_play_the_other(round_state):
    server = identity.server_context(round_state.server, round_state.ca)
    client = identity.client_context(round_state.site, round_state.ca)
    assert "purpose" in refused(
        server, raw(ssl.PROTOCOL_TLS_CLIENT, round_state.server, round_state.ca)
    )
    assert "purpose" in refused(
        raw(ssl.PROTOCOL_TLS_SERVER, round_state.site, round_state.ca), client
    )
    with pytest.raises(IdentityError, match="is the site 'lyon'; a server is required"):
        identity.server_context(round_state.site, round_state.ca)
    with pytest.raises(IdentityError, match="is the server 'hub'; a site is required"):
        identity.client_context(round_state.server, round_state.ca)


def test_tls_1_2_is_refused(round_state):
    old = raw(ssl.PROTOCOL_TLS_CLIENT, round_state.site, round_state.ca)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    told = refused(identity.server_context(round_state.server, round_state.ca), old)
    assert "UNSUPPORTED_PROTOCOL" in told
    old_server = raw(ssl.PROTOCOL_TLS_SERVER, round_state.server, round_state.ca)
    old_server.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(old_server, identity.client_context(round_state.site, round_state.ca))


def test_a_revoked_site_is_seen_at_its_next_request(round_state):
    who = identity.peer_identity(meet(round_state).getpeercert(True))
    pki.revoke(round_state.federation.hq, "lyon", "compromised", NOW)
    gone = pki.revoked(round_state.federation.hq)
    assert gone == {who.serial}
    with pytest.raises(IdentityError, match="of 'lyon' is revoked"):
        identity.admit(who, "site", gone, NOW)


def test_a_renewed_site_works_before_and_after_on_the_same_server(round_state):
    server = identity.server_context(round_state.server, round_state.ca)

    def seen():
        end = shake(server, identity.client_context(round_state.site, round_state.ca))
        return identity.peer_identity(end.getpeercert(True))

    before = seen()
    asked, _ = pki.renew(round_state.site)
    done = pki.approve(round_state.federation.hq, asked, Grant(SERVER), NOW, renewal=True)
    assert seen() == before
    pki.accept(done.bundle, round_state.site, NOW)
    assert seen().name == before.name and seen().serial != before.serial


def test_a_server_takes_a_renewed_certificate_without_a_restart(round_state):
    server = identity.server_context(round_state.server, round_state.ca)
    asked, _ = pki.renew(round_state.server)
    grant = Grant(SERVER, "server", hosts=("127.0.0.1",))
    done = pki.approve(round_state.federation.hq, asked, grant, NOW, renewal=True)
    pki.accept(done.bundle, round_state.server, NOW)
    client = identity.client_context(round_state.site, round_state.ca)
    shake(server, client)
    server.load_cert_chain(round_state.server / IDENTITY)
    shake(server, client, "127.0.0.1")
    refused(server, client)
    refused(server, client, "hub")  # its common name is no host


def test_admission_looks_at_role_list_and_date():
    who = Identity("lyon", 7, "site", NOW)
    assert identity.admit(who, "site", frozenset({8}), NOW) is who
    for role, now, told in (("server", NOW, "is required here"), ("site", NOW + DAY, "expired on")):
        with pytest.raises(IdentityError, match=told):
            identity.admit(who, role, frozenset(), now)


def der(pem):
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def pem(raw, kind):
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, base64.encodebytes(raw), kind)


def changed(data):
    """Some bytes with one of them changed, for each of them."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def survivors(read, good):
    """How many changes are accepted; those say what the original says (padding, spaces)."""
    first, count = read(good), 0
    for bad in changed(good):
        with contextlib.suppress(IdentityError):
            assert read(bad) == first
            count += 1
    return count


def test_a_changed_request_is_refused_whichever_byte_it_is():
    good = der(certificates.request("lyon", certificates.new_key()))

    def read(data):
        found = certificates.read_request(pem(data, b"CERTIFICATE REQUEST"))
        return found.name, found.key

    assert survivors(read, good) <= 1  # the count of unused bits after the signature


def test_a_changed_certificate_is_refused_whichever_byte_it_is(round_state):
    text = (round_state.site / IDENTITY).read_bytes()
    above = round_state.ca.read_bytes()

    def read(data):
        certificates.check_issued(pem(data, b"CERTIFICATE"), above, NOW)
        return identity.peer_identity(data)

    good = der(text[text.index(b"-----BEGIN CERTIFICATE-----") :])
    assert survivors(read, good) <= 1


def test_a_changed_bundle_is_refused_whichever_byte_it_is(round_state):
    (place,) = round_state.site.glob("*.bundle.json")
    assert survivors(bundles.unseal, place.read_bytes()) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"server": "https://evil:1"}, "the signature does not fit"),
        ({"authority": "\ud800"}, "other fields"),
        ({"signature": "!"}, "the signature does not fit"),
        ({"format": 2}, "has format 2; this muster reads 1"),
        ({"more": "x"}, "other fields"),
        ({"revoked": 7}, "other fields"),
    ],
)
def test_a_bundle_is_signed_as_a_whole(round_state, change, message):
    (place,) = round_state.site.glob("*.bundle.json")
    body = json.loads(place.read_bytes()) | change
    with pytest.raises(IdentityError, match=message):
        bundles.unseal(json.dumps(body).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b"7"])
def test_what_is_no_bundle(data):
    with pytest.raises(IdentityError, match="no bundle of muster"):
        bundles.unseal(data)


def test_a_certificate_says_for_which_organisation_its_holder_speaks(tmp_path):
    federation = Federation(tmp_path)
    server = federation.join("hub", "server", hosts=("localhost",))
    asked, _ = pki.ask(tmp_path / "lyon", "lyon", "Ho\u0302pital Édouard-Herriot")
    grant = Grant(SERVER, organisation="Ho\u0302pital Édouard-Herriot")
    pki.accept(pki.approve(federation.hq, asked, grant, NOW).bundle, tmp_path / "lyon", NOW)
    end = shake(
        identity.server_context(server, federation.ca),
        identity.client_context(tmp_path / "lyon", federation.ca),
    )
    who = identity.peer_identity(end.getpeercert(True))
    assert who.organisation == "Hôpital Édouard-Herriot" == grant.organisation
    assert identity.holder((server / IDENTITY).read_bytes()).organisation == "hub"  # its own name


def test_the_longest_organisation_in_any_script_passes_tls(tmp_path):
    federation = Federation(tmp_path)
    server = federation.join("hub", "server", hosts=("localhost",))
    asked, _ = pki.ask(tmp_path / "lyon", "lyon")
    grant = Grant(SERVER, organisation="病" * 64)
    pki.accept(pki.approve(federation.hq, asked, grant, NOW).bundle, tmp_path / "lyon", NOW)
    end = shake(
        identity.server_context(server, federation.ca),
        identity.client_context(tmp_path / "lyon", federation.ca),
    )
    assert identity.peer_identity(end.getpeercert(True)).organisation == "病" * 64


def by_hand(federation, *parts, name="lyon"):
    """A certificate that the authority's key signed, with any subject."""
    above = x509.load_pem_x509_certificate(federation.ca.read_bytes())
    authority = serialization.load_pem_private_key(
        (federation.hq / "authority.key").read_bytes(), None
    )
    uri = x509.UniformResourceIdentifier(f"urn:muster:site:{name}")
    common = x509.NameAttribute(oid.NameOID.COMMON_NAME, name)
    made = (
        x509.CertificateBuilder(above.subject, x509.Name([common, *parts]))
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(77)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([identity.ROLES["site"]]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def organisation(text):
    return x509.NameAttribute(oid.NameOID.ORGANIZATION_NAME, text)


def test_in_an_old_certificate_without_an_organisation_the_name_stands_in(round_state):
    who = identity.holder(by_hand(round_state.federation))
    assert (who.name, who.organisation) == ("lyon", "lyon")


@pytest.mark.parametrize("text", ["In\u202eserm", "Ins\x00erm", " Inserm", "Insеrm", "x" * 65])
def test_an_organisation_with_tricks_is_refused_in_a_certificate_too(round_state, text):
    with pytest.raises(IdentityError, match="is not allowed"):
        identity.holder(by_hand(round_state.federation, organisation(text)))


def test_a_certificate_of_two_organisations_is_refused(round_state):
    pem = by_hand(round_state.federation, organisation("Inserm"), organisation("CNRS"))
    with pytest.raises(IdentityError, match="names 2 organisations"):
        identity.holder(pem)
