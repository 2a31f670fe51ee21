# SPDX-License-Identifier: Apache-2.0
"""`muster status`: who is in a federation, what they do, and what became of their work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.cli import locate, screen
from muster.cli.federation import control
from muster.cli.locate import RunName
from muster.errors import RunError
from muster.extras import require
from muster.runs import Run

if TYPE_CHECKING:
    from rich.text import Text
else:
    Text = require("rich.text", extra="site").Text

__all__ = ["command", "told"]

COLOURS = {
    "arrived": "green",
    "invited": "cyan",
    "failed": "red",
    "late": "yellow",
    "declined": "yellow",
}
HEADS = ("member", "present", "now", "rows", "in the model", "missed")


def command(run: RunName = locate.LATEST, as_json: screen.Json = False) -> None:
    """Show a federation: its round, its members, and what was refused.

    Without RUN, the only one whose server runs here.
    """
    folder = control.find(run)
    found = told(folder)
    if as_json:
        screen.emit(found)
        return
    screen.say(_head(folder, found))
    for kind, words in _lines(found):
        screen.say(Text.assemble("  ", (f"{kind:<10}", "dim"), words))
    if found["members"]:
        screen.say()
        screen.say(screen.table(HEADS, map(_row, found["members"]), left=3))
    troubles = [*_troubles(found)]
    if troubles:
        screen.say()
    for text in (*troubles, *_failures(found)):
        screen.say(text)


def told(folder: Path) -> dict[str, Any]:
    """Return the server's answer, and what is committed; the latter alone when no server runs."""
    said = control.ask(folder, "GET", "/status")
    history, planned, name = _committed(folder, running=said is not None)
    found: dict[str, Any] = {"path": str(folder), "running": said is not None, "planned": planned}
    found |= said or {
        "run": name,
        "wanted": None,
        "phase": None,
        "round": None,
        "asked": None,
        "committed": history[-1]["round"] if history else 0,
        "lease": None,
        "seats": [],
        "refusals": {},
        "members": [],
    }
    seats = {seat["client"]: seat for seat in found["seats"]}
    members = {member["client"]: member for member in found["members"]}
    for record in history:
        for client in record["invited"]:
            members.setdefault(client, {"name": str(client), "client": client})
    tally = _tally(history) if planned is not None else _untold
    found["members"] = [
        {"rows": None, "present": None, "seat": seats.get(client), **member, **tally(client)}
        for client, member in members.items()
    ]
    found["refused"] = _refused(history)
    return found


def _committed(folder: Path, *, running: bool) -> tuple[list[dict[str, Any]], int | None, str]:
    """Return the records of a run, the rounds of its plan and its id, if the folder has them."""
    if not (folder / "run.db").exists():
        if not running:
            raise RunError(
                f"no server runs in {folder}, and its rounds are in a database; start the server "
                f"with muster serve, or ask where it runs"
            )
        return [], None, folder.resolve().name
    run = Run(folder)
    name = run.facts.get("run") or folder.resolve().name
    return run.history, (run.facts.get("plan") or {}).get("rounds"), name


def _tally(history: list[dict[str, Any]]) -> Any:
    """Count by client: how often its reply is in the model, how often it was lost, why at last."""
    counted: Counter[Any] = Counter()
    lost: dict[str, Counter[Any]] = {kind: Counter() for kind in ("failed", "late", "declined")}
    last: dict[Any, dict[str, Any]] = {}
    for record in history:
        counted.update(record["accepted"])
        for kind, count in lost.items():
            for answer in record.get(kind, ()):
                count[answer["client"]] += 1
                text = answer.get("error") or answer.get("reason") or "after the deadline"
                last[answer["client"]] = {"round": record["round"], "kind": kind, "text": text}

    def of(client: Any) -> dict[str, Any]:
        return {
            "accepted": counted[client],
            **{kind: count[client] for kind, count in lost.items()},
            "trouble": last.get(client),
        }

    return of


def _untold(client: Any) -> dict[str, Any]:
    """Return the facts that a folder tells of a client without rounds, which are in PostgreSQL."""
    return {"accepted": None, "failed": 0, "late": 0, "declined": 0, "trouble": None}


def _refused(history: list[dict[str, Any]]) -> dict[str, int]:
    """Count refusals by reason over all rounds, as far as their records say."""
    found: Counter[str] = Counter()
    for record in history:
        found.update(record.get("refusals") or {})
    return dict(found)


def _head(folder: Path, found: dict[str, Any]) -> Text:
    of = f" of {found['planned']}" if found["planned"] else ""
    rounds = f"{found['committed']}{of} rounds committed"
    if not found["running"]:
        done = found["planned"] and found["committed"] >= found["planned"]
        state, colour = ("no server runs", "green" if done else "yellow")
    else:
        state, colour = control.WORDS.get(found["wanted"], str(found["phase"])), "cyan"
        colour = "yellow" if found["wanted"] in control.WORDS else colour
    parts = ((found["run"], "bold"), f"  {rounds}, ", (state, colour))
    return Text.assemble(*parts, (f"  {screen.path(folder)}", "dim"))


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not found["running"]:
        yield "server", "none runs; this is what is committed. Go on with: muster serve"
    if found["round"] is not None:
        standing = Counter(seat["standing"] for seat in found["seats"])
        words = ", ".join(f"{count} {word}" for word, count in sorted(standing.items()))
        what = "evaluated" if found["asked"] == "evaluate" else found["phase"]
        yield "round", f"{found['round']} is {what}: {words}"
    elif found["running"] and found["phase"] == "waiting":
        here = sum(bool(member["present"]) for member in found["members"])
        yield "round", f"none is open; {here} members are present"
    refusals = Counter(found["refused"]) + Counter(found["refusals"])
    if refusals:
        yield "refused", ", ".join(f"{count} {reason}" for reason, count in refusals.most_common())


def _row(member: dict[str, Any]) -> tuple[str, ...]:
    now = member["seat"]["standing"] if member["seat"] else "–"
    present = {True: "[green]yes[/]", False: "[yellow]no[/]", None: "–"}[member["present"]]
    name, client = member["name"], str(member["client"])
    figures = [member["rows"], member["accepted"]]
    missed = sum(member[kind] for kind in ("failed", "late", "declined")) or None
    return (
        _plain(name if name == client else f"{name} ({client})"),
        present,
        f"[{COLOURS[now]}]{now}[/]" if now in COLOURS else now,
        *("–" if figure is None else str(figure) for figure in (*figures, missed)),
    )


def _troubles(found: dict[str, Any]) -> Iterator[Text]:
    """Yield a line for each member that was lost at least once: how it was lost at last."""
    for member in found["members"]:
        seat, trouble = member["seat"], member["trouble"]
        if seat and seat["text"]:
            head = f"{seat['standing']} in round {found['round']}, which is open"
            text = _last(seat["text"])
        elif trouble:
            head, text = f"{trouble['kind']} in round {trouble['round']}", _last(trouble["text"])
        else:
            continue
        yield Text.assemble((f"{member['name']}  ", "yellow"), f"{head}: {text}")


def _failures(found: dict[str, Any]) -> Iterator[Text]:
    """Yield the whole of what a failed site said, which it has sent without values of data."""
    for member in found["members"]:
        seat, trouble = member["seat"], member["trouble"]
        text = seat["text"] if seat and seat["standing"] == "failed" else ""
        if not text and trouble and trouble["kind"] == "failed":
            text = trouble["text"]
        if "\n" in text.strip():
            lines = "\n".join(f"  {line}" for line in text.strip().splitlines())
            yield Text.assemble("\n", (f"{member['name']} said", "bold"), "\n", (lines, "dim"))


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:120]


def _plain(text: str) -> str:
    """Return the text without rich's markup."""
    return text.replace("[", r"\[")
