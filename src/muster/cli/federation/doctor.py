# SPDX-License-Identifier: Apache-2.0
"""`muster doctor`: what would keep a site or a server from its work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from muster.cli import screen
from muster.cli.federation.serve import Identity
from muster.errors import MusterError, RunError
from muster.extras import require
from muster.runs import planfile

if TYPE_CHECKING:
    import typer
    from rich.text import Text
else:
    typer = require("typer", extra="site")
    Text = require("rich.text", extra="site").Text

__all__ = ["command"]

SIGNS = {"ok": ("✓", "bold green"), "warning": ("!", "bold yellow"), "problem": ("✗", "bold red")}

Server = Annotated[
    str | None, typer.Option(metavar="URL", help="The server to reach. (the identity's)")
]
PlanFile = Annotated[Path | None, typer.Option(metavar="PLAN", help="The plan file.")]
Data = Annotated[Path | None, typer.Option(help="The rows that the plan is to be trained on.")]
Loader = Annotated[str | None, typer.Option(metavar="FILE.PY:NAME", help="What reads the rows.")]
Folder = Annotated[Path | None, typer.Option(help="The folder of the site's vault, or of the run.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where a server is to listen.")
]


def command(
    identity: Identity = None,
    server: Server = None,
    plan: PlanFile = None,
    data: Data = None,
    loader: Loader = None,
    path: Folder = None,
    address: Address = None,
    as_json: screen.Json = False,
) -> None:
    """Look for what would keep a site or a server from its work, and say what to do.

    muster doctor --identity lyon --plan plan.py --data rows.csv     at a site
    muster doctor --identity hub --path runs/heart --plan plan.py    on a server

    Exits with 1 when there is a problem.
    """
    if data is not None and plan is None:
        raise RunError("--data was given without --plan; give the plan file that the rows must fit")
    found = []
    for finding in _findings(identity, server, plan, data, loader, path, address):
        found.append(finding)
        if as_json:
            screen.emit(asdict(finding))
        else:
            _say(finding)
    if any(finding.level == "problem" for finding in found):
        raise typer.Exit(1)


def _findings(
    identity: Path | None,
    server: str | None,
    plan: Path | None,
    data: Path | None,
    loader: str | None,
    path: Path | None,
    address: str | None,
) -> Iterator[Any]:
    doctor = require("muster.runs.federation.doctor", extra="site")
    role, known = _role(identity) if identity is not None else ("", None)
    yield from doctor.versions(serves=role == "server" or address is not None)
    url = server or (known if role == "site" else None)
    if identity is not None:
        yield from doctor.certificate(identity)
    if url is not None and role != "server":
        reach = require("muster.runs.federation.connectivity", extra="site")
        yield from reach.proxies(urlsplit(url).hostname or "")
        yield from reach.reach(url, identity)
    file = None
    if plan is not None:
        try:
            file = planfile.load(plan)
        except MusterError as error:
            yield doctor.Finding("plan", "problem", str(error), "mend the plan file")
    if file is not None:
        yield doctor.plan(file.plan)
        yield from doctor.sums(file.plan)
    if role == "server" or address is not None:
        yield from doctor.port(address or "0.0.0.0:8443", ours=path)
    if path is not None and role != "site":
        yield from doctor.folder(path)
        yield from doctor.log(path)
    yield from doctor.disk(path or identity or Path(), file and file.plan)
    if file is not None and data is not None:
        joining = require("muster.runs.federation.join", extra="site")
        yield from doctor.data(file.plan, lambda: joining.site_rows(file, data, loader))


def _role(identity: Path) -> tuple[str, str | None]:
    """Return the role and the server of an identity; nothing where the folder is no good."""
    try:
        member = require("muster.security.pki", extra="site").member(identity)
    except MusterError:
        return "", None  # the finding about the certificate says why
    return member.who.role, member.server


def _say(finding: Any) -> None:
    sign, style = SIGNS[finding.level]
    head, *rest = finding.found.splitlines() or [""]
    screen.say(Text.assemble((f"{sign} ", style), (f"{finding.check:<12}", "dim"), head))
    for line in rest:
        screen.say(Text(f"{'':14}{line}", "dim"))
    if finding.cure:
        screen.say(Text.assemble(f"{'':14}", ("→ ", style), finding.cure))
