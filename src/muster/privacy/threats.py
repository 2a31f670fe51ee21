# SPDX-License-Identifier: Apache-2.0
"""The threat table of a run: who learns what of a client, by which assumption, tested where.

A pure function of what a run is: how its messages travel, whether its sums are masked and for
whom, what its noise covers, and what a site asks of its peers. It says what is *not* hidden as
plainly as what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from muster.privacy.mask import Sums
from muster.privacy.statement import Statement
from muster.privacy.told import Disclosure

__all__ = ["Carrier", "Peers", "READERS", "Setting", "Threat", "threats"]

Carrier = Literal["one machine", "TLS", "plain"]
READERS = (
    "the network",
    "another client",
    "the server",
    "the server with k clients",
    "the authority",
    "a reader of the model",
)


@dataclass(frozen=True)
class Threat:
    """One line of the table: what a reader learns, what that rests on, and the test behind it.

    `test` is a file below the repository and a test in it, as pytest names them.
    """

    reader: str
    learns: str
    rests_on: str
    test: str


@dataclass(frozen=True)
class Peers:
    """The demands of a site on those it sums with (`site.toml`).

    `least`: `least_peers`, 0 without; `names`: how many there are by name, 0 where not each of them
    stands there by name; `organisations`: of how many somebody is asked for; `keyed`: whether each
    name stands with its public key.
    """

    least: int = 0
    names: int = 0
    organisations: int = 0
    keyed: bool = False

    @property
    def named(self) -> bool:
        """Return whether each of them stands there by name."""
        return self.names > 0

    @property
    def others(self) -> int:
        """How many others at least are in a sum: a certificate speaks for one organisation."""
        return max(self.least, self.organisations)


@dataclass(frozen=True)
class Setting:
    """The setting that a table is made of.

    `carrier`: how messages travel. `sums`: those that were made under masks, None where the server
    sees each reply. `statements`: what noise covers, of clients and of rows. `trust`: where that
    noise is added, "central", "distributed" or "local", none without. `rows`: whether each client's
    own steps add noise for its rows. `told`: what is told beside updates or sums (`privacy.told`),
    which no noise covers; `forced`: whether a site's policy adds noise of its own, which the
    statements say nothing of. `peers`: a site's rules, None where nothing is known of them, nor of
    what else its policy has it keep. `own`: how many clients of its own a server needs beside one
    other that chooses whom it invites, None where none are enough, or nothing is masked.
    """

    carrier: Carrier
    sums: Sums | None = None
    statements: tuple[Statement, ...] = ()
    trust: frozenset[str] = frozenset()
    rows: bool = False
    told: Disclosure = Disclosure()
    peers: Peers | None = None
    own: int | None = None
    forced: bool = False

    @property
    def claims(self) -> str:
        """The claim of noise against those who read what is released; empty for none."""
        return " ".join(made.claim for made in self.statements if made.private)


def threats(setting: Setting) -> tuple[Threat, ...]:
    """Return a line for each reader, from the one who sees least.

    >>> for line in threats(Setting("TLS")):
    ...     print(f"{line.reader}: {line.learns}")  # doctest: +ELLIPSIS
    the network: who talks with the server, when and how much; no content
    another client: the models of the rounds it is invited to; no update, row count, metric or ...
    the server: each client's update by itself, and its row count, the loss, steps and drift of ...
    the server with k clients: what the server learns alone
    the authority: what the server learns, where it also takes the server's place
    a reader of the model: whatever the models show; nothing bounds it
    """
    lines = (_network, _client, _server, _colluding, _authority, _reader)
    return tuple(
        Threat(reader, *line(setting)) for reader, line in zip(READERS, lines, strict=True)
    )


Line = tuple[str, str, str]


def _network(setting: Setting) -> Line:
    if setting.carrier == "one machine":
        return (
            "nothing: nothing travels",
            "this is a simulation: whoever has the machine has all data, and the lines below say "
            "what the plan would show if it were served with identities",
            "tests/runs/federation/test_join.py::"
            "test_sites_have_the_bits_of_the_loop_and_audit_themselves",
        )
    if setting.carrier == "plain":
        return (
            f"all that is sent: models, and {_replies(setting)}; of each client its name"
            + (f", {_beside(setting)}" if _beside(setting) else ""),
            "nothing: it was served without --identity, which one machine alone allows",
            "tests/transport/http/test_listen.py::test_plain_http_is_for_loopback_only",
        )
    return (
        "who talks with the server, when and how much; no content",
        "TLS 1.3, and on both sides a certificate of this federation's authority",
        "tests/security/test_identity.py::test_tls_1_2_is_refused",
    )


def _client(setting: Setting) -> Line:
    learns = (
        "the models of the rounds it is invited to; no update, row count, metric or secret of "
        "another, but of a round of two the other's update, from the next model and its own"
    )
    rests = "the server hands out models alone"
    fetched = "tests/adversary/test_what_a_member_fetches.py::"
    test = fetched + "test_of_others_it_gets_no_update_rows_record_or_secret"
    if setting.sums is not None:
        learns += "; who else is in its sums: names, organisations, keys"
        rests = f"fewer than {setting.sums.threshold} shares tell nothing of a mask"
        test = fetched + "test_of_a_masked_round_it_gets_its_own_part_and_what_all_are_told"
    return learns, f"{rests}; {_of_models(setting)}", test


def _server(setting: Setting) -> Line:
    sums = setting.sums
    if sums is None:
        return _unmasked(setting)
    beside = f"; of each client {_beside(setting)}" if _beside(setting) else "; nothing beside them"
    shown = ": SecureSum(metrics='public')" if _beside(setting) else ""
    return (
        f"sums of at least {sums.honest} honest clients, who is in them and when{beside}{shown}",
        f"at most {sums.colluders} of {sums.clients} clients work with it, and each certificate is "
        f"of somebody else{_unverified(sums)}; {_of_sums(setting)}",
        "tests/adversary/test_two_stories.py::test_no_two_quorums_fit",
    )


def _unverified(sums: Sums) -> str:
    """Say what the number of clients rests on where a site has not verified each of them."""
    if sums.verified is None or sums.verified >= sums.clients:
        return ""
    return (
        f"; {sums.clients} are on the list that the server showed of a ring, and this site has "
        f"verified {sums.verified} of them, its neighbours and itself: the others are the server's "
        f"word (a site whose site.toml has least_peers, peers or organisations verifies all)"
    )


def _unmasked(setting: Setting) -> Line:
    """Say what noise covers, by which claim, and what no noise covers."""
    beside = _beside(setting)
    told = "tests/adversary/test_what_is_told.py::test_the_table_says_what_travels"
    if "local" in setting.trust or setting.forced:
        noise = "that client's own noise"
        if "local" not in setting.trust:
            noise += ", of which its own ledger says how much"
        claims = setting.claims if "local" in setting.trust else ""
        rests = "the client adds the noise before it sends"
        learns = f"each client's update under {noise}"
    elif setting.rows:
        claims, rests = setting.claims, "the client adds the noise in each of its local steps"
        learns = "each client's update by itself, in which noise hides single rows"
    else:
        return (
            f"each client's update by itself{', and ' if beside else ''}{beside}: from an update, "
            f"rows",
            "trust in the server alone; SecureSum() hides updates, noise of the clients hides rows",
            "tests/privacy/audits/test_inversion.py::test_a_plain_update_of_one_row_is_that_row",
        )
    if beside:
        learns += f"; and exactly, as no noise covers them, {beside}"
        rests += ", and trust in the server for what stands beside it"
    return f"{learns}. {claims}".strip(), rests, told


def _beside(setting: Setting) -> str:
    """Return what is told beside an update, or a sum, in words; "" where that is nothing."""
    told = setting.told
    parts = [
        "its row count" if told.rows else "",
        "the loss, steps and drift of its training" if told.trained else "",
        "the metrics that it measures" if told.measured else "",
    ]
    *before, last = list(filter(None, parts)) or [""]
    listed = f"{', '.join(before)} and {last}" if before else last
    keeps = " (what its site.toml does not keep)" if listed and setting.peers is None else ""
    return listed + keeps


def _colluding(setting: Setting) -> Line:
    sums = setting.sums
    if sums is None:
        return (
            "what the server learns alone",
            "nothing is hidden from the server that its clients could help with",
            "tests/privacy/audits/test_inversion.py::test_a_plain_update_of_one_row_is_that_row",
        )
    ring = "; in a ring it may choose the parts, by who drops out" if sums.ring else ""
    stories = f"From k = {2 * sums.threshold - sums.clients} on"
    if sums.ring:  # made so that no neighbourhood holds more, but for a chance
        most = sums.threshold - sums.honest + 1
        stories = f"Where more than {most} of them stand beside one client, which 2^-40 bounds,"
    covered = ""
    if "distributed" in setting.trust:
        covered = "; the noise of those k is counted as known in the claim"
    return (
        f"up to k = {sums.colluders}: sums of at least {sums.honest} clients who are honest{ring}"
        f"{covered}. {stories} two stories about who was left can be told, and single updates be "
        f"opened.{_chosen(setting)}",
        f"the plan's corrupt, which sets k for {sums.clients} clients; who chooses whom it invites "
        f"is bound by what a site asks of each sum: SecureSum(minimum=...) of the plan, and "
        f"{_rules(setting.peers)}",
        "tests/adversary/test_two_stories.py::"
        "test_with_one_share_less_they_fit_and_the_vector_is_read",
    )


def _chosen(setting: Setting) -> str:
    """Say what a server needs that invites whom it likes, and says how many."""
    if setting.own is None:
        return ""
    named = setting.peers is not None and setting.peers.named
    whose = "of the peers that site.toml names" if named else "of its own"
    return (
        f" A server that chooses whom it invites needs k = {setting.own} {whose} beside one other"
    )


def _rules(peers: Peers | None) -> str:
    """Return a site's rules, in words."""
    if peers is None:
        return "least_peers, peers and organisations in its site.toml, which are not known here"
    found = [
        f"least_peers = {peers.least}" if peers.least else "",
        "peers" if peers.named else "",
        "organisations, somebody of each of whom is among them" if peers.organisations else "",
    ]
    given = " and ".join(filter(None, found))
    return f"{given} in its site.toml" if given else "no rule of its site.toml"


def _authority(setting: Setting) -> Line:
    sums, peers = setting.sums, setting.peers
    if sums is None:
        return (
            "what the server learns, where it also takes the server's place",
            "the authority's key is kept off the server by somebody else",
            "tests/security/test_identity.py::test_a_foreign_certificate_does_not_get_in",
        )
    room = "tests/adversary/test_who_is_in_the_room.py::"
    if peers is not None and peers.named and peers.keyed:
        return (
            "with the server: nothing beside what the server learns, as it cannot put keys of its "
            "own in the place of those that this site gives",
            f"peers in site.toml{_least(peers)}, each with the fingerprint of its public key, as "
            f"its holder said it",
            "tests/adversary/test_site_room.py::"
            "test_an_authority_that_certifies_its_own_key_under_a_peers_name_is_not_that_peer",
        )
    if peers is not None and peers.named:
        return (
            "with the server: single updates, if it certifies keys of its own under the names that "
            "this site gives",
            f"peers in site.toml{_least(peers)} keep new names out; not each stands with its "
            f"key, so give them as NAME=FINGERPRINT (muster pki show prints it)",
            room + "test_an_authority_that_invents_organisations_gets_by_the_rule_for_them_but_"
            "not_by_names",
        )
    if peers is not None and (peers.organisations or peers.least):
        what = "organisations" if peers.organisations else "a number of peers"
        return (
            "with the server: single updates, if it makes up members and the organisations they "
            "speak for",
            f"site.toml asks for {what}{_least(peers)}, which an authority can invent; name peers "
            f"to exclude that",
            room + "test_a_round_filled_with_the_operators_own_names_is_refused_by_a_site_with_"
            "rules",
        )
    told = "site.toml has no rule" if peers is not None else "rules of sites are not known here"
    return (
        "with the server: single updates, as it can make up all other members of a sum",
        f"the authority's key is kept off the server by somebody else; {told} (peers, "
        f"organisations, least_peers)",
        room + "test_a_round_filled_with_the_operators_own_names_is_refused_by_a_site_with_rules",
    )


def _reader(setting: Setting) -> Line:
    if setting.claims:
        return (
            setting.claims,
            "the accounting above",
            "tests/privacy/test_relations.py::"
            "test_what_is_claimed_holds_for_the_neighbours_that_are_named",
        )
    return (
        "whatever the models show; nothing bounds it",
        "no noise that could be claimed: " + _why_none(setting.statements),
        "tests/privacy/audits/test_membership.py::test_without_noise_members_are_found",
    )


def _replies(setting: Setting) -> str:
    return "each client's update" if setting.sums is None else "masked updates"


def _of_models(setting: Setting) -> str:
    if setting.claims:
        return "what models show is covered by noise, as for a reader of the model"
    return "what the models show of others is bounded by nothing"


def _of_sums(setting: Setting) -> str:
    inside = setting.rows or not setting.trust.isdisjoint(("distributed", "local"))
    if inside and setting.claims:
        return "what a sum shows is covered by noise, as for a reader of the model"
    return "what a sum shows of one of its parts is bounded by nothing"


def _least(peers: Peers) -> str:
    return f" (and at least {peers.least} of them in a sum)" if peers.least else ""


def _why_none(statements: Iterable[Statement]) -> str:
    def reasons() -> Iterator[str]:
        for made in statements:
            yield from made.reasons

    return next(reasons(), "no stage adds any")
