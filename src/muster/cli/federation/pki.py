# SPDX-License-Identifier: Apache-2.0
"""`muster pki`: the keys and certificates of a federation, made where they belong."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from muster.cli import screen
from muster.extras import require

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="site")
    Text = require("rich.text", extra="site").Text

__all__ = ["group"]

SOON = 30  # days left from which a certificate is shown in yellow

group = typer.Typer(
    name="pki",
    help="Keys and certificates of a federation: who may join, and for how long.",
    no_args_is_help=True,
    add_completion=False,
)

Authority = Annotated[Path, typer.Argument(help="The authority's folder.")]


def now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


def _pki() -> Any:
    """Return `muster.security.pki`, loaded late: `muster --help` works without cryptography."""
    return require("muster.security.pki", extra="site")


@group.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    name: Annotated[str, typer.Option(help="What people read: the name of the federation.")],
    as_json: screen.Json = False,
) -> None:
    """Make an authority: it says who may join. Keep its folder off the server."""
    mark = _pki().init(folder, name, now())
    if as_json:
        screen.emit({"authority": str(folder), "name": name, "fingerprint": mark})
        return
    _done(f"{folder}/ is the authority of {name!r}; back it up, and keep authority.key secret")
    _line("fingerprint", mark)
    _line("next", "at each site: muster pki request NAME --out FOLDER")


@group.command("request")
def request(
    name: Annotated[str, typer.Argument(help="The site's name: a-z, 0-9 and -.")],
    out: Annotated[Path, typer.Option(help="The site's folder, for its key and the request.")],
    organisation: Annotated[
        str, typer.Option(help="For whom the site speaks: 'St Mary's Hospital'. (its name)")
    ] = "",
    as_json: screen.Json = False,
) -> None:
    """Make a private key at the site, where it stays, and a request to send."""
    place, mark = _pki().ask(out, name, organisation)
    more = f" --organisation {shlex.quote(organisation)}" if organisation else ""
    _asked(place, mark, out, as_json, more)


@group.command("renew")
def renew(
    folder: Annotated[Path, typer.Argument(help="The site's folder.")],
    as_json: screen.Json = False,
) -> None:
    """Make a new key at the site, and a request for it; the old one serves meanwhile."""
    place, mark = _pki().renew(folder)
    _asked(place, mark, folder, as_json, " --renewal")


@group.command("approve")
def approve(
    authority: Authority,
    request: Annotated[Path, typer.Argument(help="The file that the site sent.")],
    server: Annotated[str, typer.Option(help="The server's address: https://host:8443.")],
    days: Annotated[int, typer.Option(help="How long it is valid.")] = 365,
    role: Annotated[str, typer.Option(help="site or server.")] = "site",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A server's DNS name or IP address; may be repeated. (that of --server)"),
    ] = None,
    organisation: Annotated[
        str, typer.Option(help="For whom it speaks: what the request asks for, or another.")
    ] = "",
    renewal: Annotated[bool, typer.Option(help="The same site asks with a new key.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The bundle's file. (beside the request)")
    ] = None,
    as_json: screen.Json = False,
) -> None:
    """Issue a certificate; write the bundle to send back, which holds no secret.

    The organisation that a request asks for is confirmed by saying it: with --organisation, or at
    the question that a terminal asks.
    """
    pki = _pki()
    if not organisation and not as_json and sys.stdin.isatty():
        organisation = _confirmed(pki.unconfirmed(authority, request, now(), renewal=renewal))
    grant = pki.Grant(server, role, days, tuple(host or ()), organisation)
    done = pki.approve(authority, request, grant, now(), renewal=renewal, out=out)
    entry = done.entry
    if as_json:
        screen.emit({"bundle": str(done.bundle)} | asdict(entry))
        return
    _done(f"{entry.name} is a {entry.role} until {entry.ends[:10]}; its bundle: {done.bundle}")
    _line("speaks for", entry.organisation)
    _line("compare", f"{entry.key}, by phone, with what the site's request showed")
    _line("next", f"at the site: muster pki accept {shlex.quote(done.bundle.name)} --folder FOLDER")


@group.command("accept")
def accept(
    bundle: Annotated[Path, typer.Argument(help="The file that the authority sent.")],
    folder: Annotated[Path, typer.Option(help="The site's folder, with its key.")],
    authority: Annotated[
        str, typer.Option(help="The authority's fingerprint, or its first digits; else refuse.")
    ] = "",
    as_json: screen.Json = False,
) -> None:
    """Check a bundle at the site against the key here, and keep it."""
    member = _pki().accept(bundle, folder, now(), authority)
    if as_json:
        screen.emit(_shown(member, folder))
        return
    _member(member, folder)
    _line("authority", member.authority + ("" if authority else ", to compare by phone"))


@group.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="The folder of a site, or of a server.")],
    as_json: screen.Json = False,
) -> None:
    """Say who a folder is, and by which key others know it: what a site.toml may hold it to."""
    member = _pki().member(folder)
    peer = f"{member.who.name}={member.key}"
    if as_json:
        screen.emit(_shown(member, folder) | {"peer": peer})
        return
    _member(member, folder)
    _line("fingerprint", member.key)
    _line("authority", member.authority)
    if member.who.role == "site":
        _line("to others", f'peers = ["{peer}"] in site.toml, once compared by phone')


def _shown(member: Any, folder: Path) -> dict[str, str]:
    who = member.who
    return {
        "name": who.name,
        "organisation": who.organisation,
        "role": who.role,
        "serial": f"{who.serial:x}",
        "fingerprint": member.key,
        "ends": who.not_after.isoformat(),
        "server": member.server,
        "authority": member.authority,
        "folder": str(folder),
    }


def _member(member: Any, folder: Path) -> None:
    who = member.who
    _done(f"{folder}/ is the {who.role} {who.name} of {member.server} until {who.not_after:%F}")
    _line("speaks for", who.organisation)


@group.command("revoke")
def revoke(
    authority: Authority,
    who: Annotated[str, typer.Argument(help="A name (all its certificates), or one serial.")],
    reason: Annotated[str, typer.Option(help="compromised, left, replaced or other.")],
    as_json: screen.Json = False,
) -> None:
    """Revoke certificates, and sign the list that says so."""
    gone = _pki().revoke(authority, who, reason, now())
    listed = authority / "revoked.pem"
    if as_json:
        serials = [entry.serial for entry in gone]
        screen.emit({"who": who, "revoked": serials, "reason": reason, "list": str(listed)})
        return
    for entry in gone:
        _done(f"{entry.name} {entry.serial[:8]} is revoked ({reason})")
    if not gone:
        screen.say(f"  {who} was revoked before; the list says so")
    _line("next", f"copy {listed} into the server's folder, which hands it to the sites")


@group.command("ls")
def ls(authority: Authority, as_json: screen.Json = False) -> None:
    """List what an authority issued, and how many days are left."""
    found, clock = _pki().entries(authority), now()
    if as_json:
        for entry in found:
            left = entry.days_left(clock)
            screen.emit(asdict(entry) | {"days_left": left, "live": entry.live(clock)})
        return
    if not found:
        screen.say(f"{authority}/ has issued nothing yet; see: muster pki approve --help")
        return
    heads = ("name", "organisation", "role", "state", "serial", "until", "days left")
    screen.say(screen.table(heads, (_row(entry, clock) for entry in found), left=5))


def _row(entry: Any, clock: datetime) -> tuple[str | Text, ...]:
    left = entry.days_left(clock)
    state = f"revoked: {entry.reason}" if entry.state == "revoked" else "valid"
    colour = "red"
    if entry.live(clock):
        colour = "yellow" if left < SOON else "green"
    elif entry.state == "valid":
        state = "expired"
    days = str(left) if entry.live(clock) else "–"
    shown = f"[{colour}]{state}[/]"
    said = Text(entry.organisation)
    return (entry.name, said, entry.role, shown, entry.serial[:8], entry.ends[:10], days)


def _confirmed(asked: str) -> str:
    """Return the organisation that a request asks for, once a person has said that it is so."""
    if asked:
        typer.confirm(f"The request asks to speak for {asked!r}. Is that so?", abort=True)
    return asked


def _asked(place: Path, mark: str, folder: Path, as_json: bool, more: str = "") -> None:
    if as_json:
        screen.emit({"request": str(place), "fingerprint": mark, "folder": str(folder)})
        return
    _done(f"send {place} to the authority; the private key stays in {folder}/")
    _line("fingerprint", mark)
    _line("then", f"at the authority: muster pki approve AUTHORITY {place.name} --server …{more}")


def _done(text: str) -> None:
    screen.say(Text.assemble(("✓ ", "bold green"), text))


def _line(head: str, text: str) -> None:
    screen.say(Text.assemble("  ", (f"{head:<12}", "dim"), text))
