# SPDX-License-Identifier: Apache-2.0
"""The way of a site into a federation as its people walk it, and every refusal on the way."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from typer.testing import CliRunner

from muster.cli.app import app
from muster.cli.federation import pki as commands
from muster.federation.site.peers import PeerRules
from muster.security import pki
from muster.security.pki import membership

SERVER = ("--server", "https://hub.example:8443")
BARE = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cryptography":
            raise ModuleNotFoundError("no cryptography", name="cryptography")
sys.meta_path.insert(0, Nowhere())
from muster.cli.app import main
main(sys.argv[1:])
"""


@pytest.fixture
def hq(shell):
    shell("pki", "init", "hq", "--name", "Heart study")
    return shell.folder / "hq"


def ask(shell, name, folder=None):
    return shell.json("pki", "request", name, "--out", folder or name)[0]


def approve(shell, request, *words):
    return shell.json("pki", "approve", "hq", request, *SERVER, *words)[0]


def join(shell, name, *words):
    done = approve(shell, ask(shell, name)["request"], *words)
    return shell.json("pki", "accept", done["bundle"], "--folder", name)[0]


def mode(path):
    return path.stat().st_mode & 0o777


def test_the_whole_way_in_and_out(shell, hq):
    made = ask(shell, "lyon")
    done = approve(shell, made["request"])
    assert done["key"] == made["fingerprint"]
    member = shell.json("pki", "accept", done["bundle"], "--folder", "lyon")[0]
    assert (member["name"], member["role"]) == ("lyon", "site")
    assert (member["server"], member["serial"]) == (SERVER[1], done["serial"])
    join(shell, "hub", "--role", "server", "--host", "hub.example", "--host", "10.0.0.7")
    listed = shell.json("pki", "ls", "hq")
    assert [e["name"] + e["role"] + e["state"] for e in listed] == [
        "lyonsitevalid",
        "hubservervalid",
    ]
    assert listed[0]["days_left"] == 364 and listed[1]["hosts"] == ["hub.example", "10.0.0.7"]
    for serials in ([done["serial"]], []):  # the second time does nothing
        gone = shell.json("pki", "revoke", "hq", "lyon", "--reason", "left")[0]
        assert gone["revoked"] == serials
        assert pki.revoked(hq) == {int(done["serial"], 16)}


def test_what_people_read(shell):
    assert "fingerprint" in shell("pki", "init", "hq", "--name", "Heart [red] study")
    assert "issued nothing yet" in shell("pki", "ls", "hq")
    assert "the private key stays in lyon/" in shell("pki", "request", "lyon", "--out", "lyon")
    words = ("pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER)
    assert "lyon is a site until" in shell(*words)
    (bundle,) = shell.folder.glob("lyon/*.bundle.json")
    told = shell("pki", "accept", str(bundle), "--folder", "lyon")
    assert f"lyon/ is the site lyon of {SERVER[1]} until" in told
    assert "--renewal" in shell("pki", "renew", "lyon")
    assert "364" in shell("pki", "ls", "hq")
    assert "is revoked (left)" in shell("pki", "revoke", "hq", "lyon", "--reason", "left")
    assert "was revoked before" in shell("pki", "revoke", "hq", "lyon", "--reason", "left")
    assert "revoked: left" in shell("pki", "ls", "hq")


MARY = "St Mary's Hospital"


def test_an_organisation_is_asked_for_confirmed_and_seen_everywhere(shell, hq):
    told = shell("pki", "request", "lyon", "--organisation", MARY, "--out", "lyon")
    assert """--organisation 'St Mary'"'"'s Hospital'""" in told
    words = ("pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER)
    said = shell.fails(*words)  # nobody is one by asking
    assert "'lyon' asks to speak for \"St Mary's Hospital\"; say which one it is" in said
    assert pki.entries(hq) == []
    done = shell.json(*words, "--organisation", MARY)[0]
    assert done["organisation"] == MARY
    member = shell.json("pki", "accept", done["bundle"], "--folder", "lyon")[0]
    assert member["organisation"] == MARY
    assert f"speaks for  {MARY}" in shell("pki", "accept", done["bundle"], "--folder", "lyon")
    assert [entry["organisation"] for entry in shell.json("pki", "ls", "hq")] == [MARY]
    assert MARY in shell("pki", "ls", "hq")
    line = json.loads((hq / "ledger.jsonl").read_text())
    assert line["organisation"] == MARY
    assert pki.member(shell.folder / "lyon").who.organisation == MARY


def test_a_member_shows_its_key_as_others_write_it_down(shell, hq):
    join(shell, "lyon")
    (shown,) = shell.json("pki", "show", "lyon")
    key = pki.fingerprint((shell.folder / "lyon" / "identity.pem").read_bytes())
    assert shown["name"] == "lyon" and shown["fingerprint"] == key
    assert shown["peer"] == f"lyon={key}"
    assert PeerRules(peers=(shown["peer"], "*")).peers[0] == shown["peer"]
    told = shell("pki", "show", "lyon")
    assert key in told and f'"lyon={key}"' in told
    assert "holds no identity yet" in shell.fails("pki", "show", "nowhere")


def test_the_authority_corrects_an_organisation(shell, hq):
    ask(shell, "lyon")
    request = shell.json("pki", "request", "oslo", "--organisation", "WHO", "--out", "oslo")[0]
    done = approve(shell, request["request"], "--organisation", "Ullevål sykehus")
    assert done["organisation"] == "Ullevål sykehus"
    assert "speaks for  Lyon" in shell(
        "pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER, "--organisation", "Lyon"
    )


def test_without_an_organisation_a_site_speaks_for_itself(shell, hq):
    assert approve(shell, ask(shell, "lyon")["request"])["organisation"] == "lyon"


def test_a_terminal_is_asked_about_the_organisation(shell, hq, monkeypatch):
    shell("pki", "request", "lyon", "--organisation", MARY, "--out", "lyon")
    words = ["pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER]
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(commands, "sys", terminal)
    result = CliRunner().invoke(app, words, input="n\n")
    assert result.exit_code == 1 and f'speak for "{MARY}"' in result.stdout
    assert pki.entries(hq) == []
    result = CliRunner().invoke(app, words, input="y\n")
    assert result.exit_code == 0 and f"speaks for  {MARY}" in result.stdout
    for more in (["--renewal"], []):  # the same again needs no question
        result = CliRunner().invoke(app, [*words, *more, "--out", f"again{len(more)}.json"])
        assert result.exit_code == 0 and f"speaks for  {MARY}" in result.stdout


def test_a_renewal_keeps_the_organisation_unless_the_authority_changes_it(shell, hq):
    asked = shell.json("pki", "request", "lyon", "--organisation", MARY, "--out", "lyon")[0]
    done = approve(shell, asked["request"], "--organisation", MARY)
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    done = approve(shell, shell.json("pki", "renew", "lyon")[0]["request"], "--renewal")
    assert done["organisation"] == MARY
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    request = shell.json("pki", "renew", "lyon")[0]["request"]
    done = approve(shell, request, "--renewal", "--organisation", "Mary & Sons")
    assert done["organisation"] == "Mary & Sons"
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    assert pki.member(shell.folder / "lyon").who.organisation == "Mary & Sons"


def test_a_renewal_does_not_change_the_organisation_by_asking(shell, hq):
    join(shell, "lyon")
    foreign_request(
        shell.folder, ec.generate_private_key(ec.SECP256R1()), "lyon", organisation="WHO"
    )
    told = shell.fails("pki", "approve", "hq", "x.pem", *SERVER, "--renewal")
    assert "'lyon' asks to speak for 'WHO', and speaks for 'lyon' until now" in told
    foreign_request(shell.folder, ec.generate_private_key(ec.SECP256R1()), "lyon")
    assert approve(shell, "x.pem", "--renewal")["organisation"] == "lyon"


@pytest.mark.parametrize("text", ["In\u202eserm", "\x1b[31mInserm", " Inserm", "x" * 65, "Insеrm"])
def test_an_organisation_with_tricks_is_refused_at_every_door(shell, hq, text):
    words = ("--organisation", text)
    for told in (
        shell.fails("pki", "request", "lyon", "--out", "lyon", *words),
        shell.fails("pki", "approve", "hq", "plan.py", *SERVER, *words),
    ):
        assert "is not allowed" in told and told.isprintable()
    assert not (shell.folder / "lyon").exists()
    key = ec.generate_private_key(ec.SECP256R1())
    foreign_request(shell.folder, key, "lyon", organisation=text)
    told = shell.fails("pki", "approve", "hq", "x.pem", *SERVER)
    assert "is not allowed" in told and told.isprintable()
    assert pki.entries(hq) == []


def test_an_organisation_is_printed_as_it_is_and_not_as_markup(shell, hq):
    done = approve(
        shell, ask(shell, "lyon")["request"], "--organisation", "[red]Inserm[/] :hospital: \\"
    )
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    assert "[red]Inserm[/] :hospital: \\" in shell("pki", "ls", "hq")
    assert "[red]Inserm[/] :hospital: \\" in shell(
        "pki", "accept", done["bundle"], "--folder", "lyon"
    )


def test_a_renewal_overlaps_and_the_old_one_can_be_revoked_alone(shell, hq):
    old = join(shell, "lyon")
    made = shell.json("pki", "renew", "lyon")[0]
    assert "add --renewal" in shell.fails("pki", "approve", "hq", made["request"], *SERVER)
    done = approve(shell, made["request"], "--renewal")
    assert [e["live"] for e in shell.json("pki", "ls", "hq")] == [True, True]
    new = shell.json("pki", "accept", done["bundle"], "--folder", "lyon")[0]
    assert new["serial"] != old["serial"]
    shell("pki", "accept", done["bundle"], "--folder", "lyon")  # again: no harm
    assert not (shell.folder / "lyon/pending.key").exists()
    words = ("pki", "revoke", "hq", old["serial"][:10], "--reason", "replaced")
    assert shell.json(*words)[0]["revoked"] == [old["serial"]]
    assert [e["state"] for e in shell.json("pki", "ls", "hq")] == ["revoked", "valid"]
    assert pki.member(shell.folder / "lyon").who.serial == int(new["serial"], 16)


def test_private_keys_are_readable_by_their_owner_alone_and_leave_nothing_elsewhere(shell, hq):
    join(shell, "lyon")
    shell("pki", "renew", "lyon")
    home = shell.folder / "lyon"
    secrets = {hq / "authority.key", home / "identity.pem", home / "pending.key"}
    assert mode(hq) == mode(home) == 0o700
    for path in shell.folder.rglob("*"):
        if path.is_file() and path.name != "plan.py":
            assert (b"PRIVATE KEY" in path.read_bytes()) == (path in secrets), path
            assert mode(path) == (0o600 if path in secrets or path.name == "lock" else 0o644), path


def test_a_key_that_others_can_read_is_not_used(shell, hq):
    ask(shell, "lyon")
    (hq / "authority.key").chmod(0o640)
    told = shell.fails("pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER)
    assert "can be read by others (mode 640); run chmod 600" in told
    assert pki.entries(hq) == []


def test_nothing_is_overwritten(shell, hq):
    ask(shell, "lyon")
    keys = hq / "authority.key", shell.folder / "lyon/pending.key"
    before = [key.read_bytes() for key in keys]
    assert "already exists" in shell.fails("pki", "init", "hq", "--name", "Other")
    assert "waits for its bundle" in shell.fails("pki", "request", "lyon", "--out", "lyon")
    assert [key.read_bytes() for key in keys] == before
    done = approve(shell, "lyon/lyon.request.pem")
    words = ("pki", "approve", "hq", "lyon/lyon.request.pem", *SERVER, "--out", done["bundle"])
    assert "name another file" in shell.fails(*words)
    assert len(pki.entries(hq)) == 1
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    assert "use muster pki renew" in shell.fails("pki", "request", "lyon", "--out", "lyon")


@pytest.mark.parametrize(
    "name", ["", "Lyon", "st_x", "a.b", "-x", "x-", "a" * 64, "é", "a b", "a\n"]
)
def test_a_bad_name_is_refused_in_a_sentence(shell, name):
    told = shell.fails("pki", "request", "--out", "site", "--", name)
    assert "use 1 to 63 of a-z, 0-9 and -" in told and len(told.splitlines()) == 1
    assert not (shell.folder / "site").exists()


def test_a_bundle_for_another_key_or_from_another_authority(shell, hq):
    done = approve(shell, ask(shell, "lyon")["request"])
    ask(shell, "paris")
    words = ("pki", "accept", done["bundle"], "--folder")
    assert "holds no key that fits the bundle" in shell.fails(*words, "paris")
    assert "comes from the authority" in shell.fails(*words, "lyon", "--authority", "beef")
    assert not (shell.folder / "lyon/identity.pem").exists()
    shell(*words, "lyon", "--authority", pki.fingerprint((hq / "authority.pem").read_bytes())[:16])
    shell("pki", "init", "hq2", "--name", "Heart study")
    request = shell.json("pki", "renew", "lyon")[0]["request"]
    other = shell.json("pki", "approve", "hq2", request, *SERVER)[0]["bundle"]
    assert "belongs to another authority" in shell.fails("pki", "accept", other, "--folder", "lyon")


def test_a_revoked_key_or_anothers_name_is_not_approved(shell, hq):
    join(shell, "lyon")
    ask(shell, "lyon", "thief")
    words = ("pki", "approve", "hq", "thief/lyon.request.pem", *SERVER)
    assert "'lyon' has a certificate until" in shell.fails(*words)
    assert "'lyon' is a site" in shell.fails(*words, "--role", "server", "--renewal")
    shell("pki", "revoke", "hq", "lyon", "--reason", "compromised")
    told = shell.fails(*words[:3], "lyon/lyon.request.pem", *SERVER)
    assert "belongs to the revoked certificate of 'lyon'" in told


def test_a_bundle_that_expired_on_its_way(shell, hq, monkeypatch):
    done = approve(shell, ask(shell, "lyon")["request"], "--days", "3")
    monkeypatch.setattr(commands, "now", lambda: datetime.now(UTC) + timedelta(days=4))
    assert "check the clock" in shell.fails("pki", "accept", done["bundle"], "--folder", "lyon")
    assert "expired" in shell("pki", "ls", "hq")


def test_an_old_bundle_brings_no_older_list(shell, hq):
    home = shell.folder / "hub"
    first = approve(shell, ask(shell, "hub")["request"], "--role", "server")
    join(shell, "lyon")
    shell("pki", "revoke", "hq", "lyon", "--reason", "left")
    shutil.copy(hq / "revoked.pem", home)
    shell("pki", "accept", first["bundle"], "--folder", "hub")
    assert pki.revoked(home) == pki.revoked(hq) != frozenset()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--server", "http://hub"), "write https://host:8443"),
        (("--server", "https://hub:99999"), "write https://host:8443"),
        (("--server", "https://hüb"), "write https://host:8443"),
        ((*SERVER, "--days", "3653"), "use 1 to 3652 days"),
        ((*SERVER, "--days", "3652"), "use at most 3651"),
        ((*SERVER, "--role", "boss"), "use site or server"),
        ((*SERVER, "--host", "x"), "a site has no host"),
        ((*SERVER, "--role", "server", "--host", "a_b"), "no DNS name"),
        ((*SERVER, "--out", "nowhere/x.json"), "name another file"),
    ],
)
def test_a_grant_that_cannot_be_given(shell, hq, words, message):
    ask(shell, "lyon")
    told = shell.fails("pki", "approve", "hq", "lyon/lyon.request.pem", *words)
    assert message in told and len(told.splitlines()) == 1
    assert pki.entries(hq) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ls", "."), "holds no authority.pem"),
        (("approve", "hq", "gone.pem", *SERVER), "gone.pem: No such file"),
        (("approve", "hq", "plan.py", *SERVER), "the request cannot be read"),
        (("accept", "plan.py", "--folder", "."), "no bundle of muster"),
        (("renew", "."), "holds no identity yet"),
        (("revoke", "hq", "nobody", "--reason", "left"), "'nobody' is not the name or serial"),
        (("revoke", "hq", "nobody", "--reason", "bored"), "use one of compromised, left"),
        (("init", "new", "--name", " "), "1 to 64 printable letters"),
    ],
)
def test_commands_refuse(shell, hq, words, message):
    told = shell.fails("pki", *words)
    assert message in told and len(told.splitlines()) == 1


def foreign_request(folder, key, *names, organisation=None):
    parts = [x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name) for name in names]
    if organisation is not None:
        parts.append(x509.NameAttribute(x509.oid.NameOID.ORGANIZATION_NAME, organisation))
    made = x509.CertificateSigningRequestBuilder(x509.Name(parts))
    made = made.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    (folder / "x.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        (ed25519.Ed25519PrivateKey.generate(), ["lyon"], "an EC P-256 key is required"),
        (ec.generate_private_key(ec.SECP384R1()), ["lyon"], "an EC P-256 key is required"),
        (ec.generate_private_key(ec.SECP256R1()), ["Lyon"], "the name 'Lyon' is not allowed"),
        (ec.generate_private_key(ec.SECP256R1()), [], "has 0 names"),
        (ec.generate_private_key(ec.SECP256R1()), ["a", "b"], "has 2 names"),
    ],
)
def test_a_request_made_elsewhere_is_held_to_the_same_rules(shell, hq, key, names, message):
    foreign_request(shell.folder, key, *names)
    assert message in shell.fails("pki", "approve", "hq", "x.pem", *SERVER)
    assert pki.entries(hq) == []


def test_the_ledger_is_a_line_per_event_and_damage_is_named(shell, hq):
    join(shell, "lyon")
    shell("pki", "revoke", "hq", "lyon", "--reason", "left")
    path = hq / "ledger.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    assert [(line["state"], line["reason"]) for line in lines] == [
        ("valid", None),
        ("revoked", "left"),
    ]
    path.write_text('{"name": 1}\n')
    assert "ledger.jsonl is damaged" in shell.fails("pki", "ls", "hq")


def test_a_kill_while_accepting_leaves_the_old_identity_or_the_new(shell, hq, monkeypatch):
    home, old = shell.folder / "lyon", join(shell, "lyon")["serial"]
    done = approve(shell, shell.json("pki", "renew", "lyon")[0]["request"], "--renewal")
    real = membership.write
    for step in (0, 1, 2):
        steps = iter(range(4))

        def write(*words, steps=steps, step=step):
            if next(steps) == step:
                raise KeyboardInterrupt
            real(*words)

        monkeypatch.setattr(membership, "write", write)
        with pytest.raises(KeyboardInterrupt):
            membership.accept(Path(done["bundle"]), home, datetime.now(UTC))
        assert f"{pki.member(home).who.serial:x}" == old
    monkeypatch.setattr(membership, "write", real)
    shell("pki", "accept", done["bundle"], "--folder", "lyon")
    assert f"{pki.member(home).who.serial:x}" == done["serial"]


def test_without_cryptography_the_shell_works_and_says_what_to_install(tmp_path):
    def muster(*words):
        command = [sys.executable, "-c", BARE, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert "pki" in muster("--help").stdout
    told = muster("pki", "init", "hq", "--name", "x").stderr
    assert "pip install 'muster-fl[site]'" in told and len(told.splitlines()) == 1
