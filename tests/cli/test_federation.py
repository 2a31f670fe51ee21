# SPDX-License-Identifier: Apache-2.0
"""A federation as an operator and its sites run it: processes, certificates, orders, signals."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ranges

pytest.importorskip("cryptography")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

from muster.cli.federation import control, signals, status, watcher
from muster.cli.federation.join import Told
from muster.store.sqlite import SQLiteStore

MAIN = "import sys; from muster.cli.app import main; main(sys.argv[1:])"
LOADER = '''

def local_data(path):
    """A site's rows: the last column is the label."""
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return table[:, :-1], table[:, -1].astype(np.int64)
'''
HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
# As in an environment that holds what the extra `site` brings: every other package is absent.
SMALL = """
import sys
ABSENT = {absent!r}
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"no {{name}}", name=name)
sys.meta_path.insert(0, Nowhere())
from muster.cli.app import main
main(sys.argv[1:])
"""


class Process:
    """`muster` in a process of its own, its JSON read line by line."""

    def __init__(self, *words, main=MAIN):
        self.process = subprocess.Popen(
            [sys.executable, "-c", main, *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, event, **wanted):
        """The next event of a kind."""
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == event and wanted.items() <= said.items():
                return said
        raise AssertionError(f"no {event}: {self.process.stderr.read()}")

    def end(self, code):
        """The last line, once the process has ended."""
        out, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == code, errors
        return json.loads(out.splitlines()[-1]) if out else None


@pytest.fixture
def start():
    """Starts processes; whatever is left of them at the end is killed."""
    started = []

    def one(*words, **how):
        started.append(Process(*words, **how))
        return started[-1]

    yield one
    for held in started:
        held.process.kill()
        held.process.communicate()


@pytest.fixture
def sites(shell):
    """A plan with a loader, a file of rows for each site, and everybody's identity."""
    path = shell.folder / "plan.py"
    path.write_text(path.read_text() + LOADER)
    rng = np.random.default_rng(0)
    for name in ("lyon", "nice"):
        x = rng.standard_normal((12, 3)).astype(np.float32)
        np.savetxt(f"{name}.csv", np.c_[x, x[:, 0] > 0], delimiter=",", fmt="%.5f")
    server = ("--server", f"https://{HOST}:8443")
    shell("pki", "init", "hq", "--name", "Heart study")
    for name, more in (("hub", ("--role", "server")), ("lyon", ()), ("nice", ())):
        request = shell.json("pki", "request", name, "--out", name)[0]["request"]
        done = shell.json("pki", "approve", "hq", request, *server, *more)[0]
        shell("pki", "accept", done["bundle"], "--folder", name)
    return shell


def serve(start, *more):
    words = ("--path", "heart", "--identity", "hub", "--address", f"{HOST}:0", "--clients", "2")
    return start("serve", "plan.py", *words, *more)


def brought(extra):
    """The distributions that an extra installs, with all that these need themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, found = [one.name for one in ranges.of(project, extra)], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needs = map(Requirement, requires(name) or ())
        waiting += [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def absent(extra):
    """The modules of every installed package that an extra does not bring."""
    there = brought(extra)
    return {
        module
        for module, names in packages_distributions().items()
        if module != "muster" and not there & {canonicalize_name(name) for name in names}
    }


def test_the_small_extra_is_small():
    gone = absent("site")
    assert {"matplotlib", "sqlalchemy", "uvicorn", "prometheus_client", "alembic"} <= gone
    assert not gone & {"cryptography", "httpx", "numpy", "safetensors", "zstandard"}


def test_a_site_joins_a_numpy_plan_with_no_more_than_the_small_extra(sites, start):
    server = serve(start, "--rounds", "2")
    url = f"https://{HOST}:{server.until('listening')['port']}"
    small, more = SMALL.format(absent=absent("site")), ("--set", "rounds=2")
    looked = start("doctor", "--identity", "lyon", "--server", url, "--plan", "plan.py", main=small)
    assert looked.end(0)["level"] == "ok"
    joined = [
        start("join", url, "plan.py", "--data", f"{n}.csv", "--identity", n, *more, main=small)
        for n in ("lyon", "nice")
    ]
    for held in (server, *joined):
        held.end(0)
    assert sites.json("status", "heart")[0]["committed"] == 2


@pytest.mark.slow
def test_a_federation_from_the_first_certificate_to_the_last_round(sites, start):
    server = serve(start, "--rounds", "20", "--lease", "30")
    opened = server.until("listening")
    assert opened["committed"] == 0 and opened["server"] == f"https://{HOST}:8443"
    url = f"https://{HOST}:{opened['port']}"
    assert sites.json("doctor", "--identity", "lyon", "--server", url)[-1]["level"] == "ok"
    more = ("--set", "rounds=20")
    joined = [
        start("join", url, "plan.py", "--data", f"{name}.csv", "--identity", name, *more)
        for name in ("lyon", "nice")
    ]
    server.until("round", round=2)
    assert sites.json("pause", "heart")[0]["wanted"] == "pause"
    assert sites.json("ls", ".")[0]["phase"] == "paused"
    found = sites.json("status")[0]  # the only one that runs
    assert found["running"] and {m["name"] for m in found["members"]} == {"lyon", "nice"}
    assert "paused" in sites("status", "heart") and "lyon" in sites("status", "heart")
    sites("resume", "heart")
    for held in (server, *joined):
        held.end(0)
    assert sites.json("status", "heart")[0] | {"members": []} == found | {
        "running": False,
        "committed": 20,
        "wanted": None,
        "phase": None,
        "lease": None,
        "round": None,
        "asked": None,
        "seats": [],
        "members": [],
    }
    assert sites.json("audit", "verify", "heart/audit.jsonl")[0]["purpose"] == "server"


def test_a_server_says_at_once_how_many_its_plan_needs(sites, start):
    server = serve(start, "--set", "minimum=5")  # and --clients 2
    assert server.until("waiting")["text"] == "waiting for sites: 0 of 5 are here"


@pytest.mark.slow
def test_a_further_run_of_a_study_needs_a_word_of_the_site(sites, start):
    (sites.folder / "site.toml").write_text('study = "hearts"\n')

    def played(run, study, *words, code=0):
        """A run of one round, and how its one site ended."""
        server = start(
            "serve",
            "plan.py",
            "--path",
            run,
            "--identity",
            "hub",
            "--address",
            f"{HOST}:0",
            "--rounds",
            "1",
            *study,
        )
        url = f"https://{HOST}:{server.until('listening')['port']}"
        site = start(
            "join",
            url,
            "plan.py",
            "--data",
            "lyon.csv",
            "--identity",
            "lyon",
            "--policy",
            "site.toml",
            *words,
        )
        _, errors = site.process.communicate(timeout=60)
        assert site.process.returncode == code, errors
        if code:
            os.kill(server.process.pid, signal.SIGTERM)
        server.end(signals.INTERRUPTED if code else 0)
        return errors

    hearts = ("--study", "hearts")
    assert "belongs to the study 'default'" in played("heart-0", (), code=1)
    played("heart-1", hearts)
    refused = played("heart-2", hearts, code=1)
    assert "the run heart-2-" in refused and "in the run heart-1-" in refused
    assert "muster join --new-run, or by new_runs in site.toml" in refused
    played("heart-2", hearts, "--new-run")
    assert (sites.folder / "lyon/studies/hearts/study.db").exists()
    assert "go on with --study hearts" in sites.fails(
        "serve", "plan.py", "--path", "heart-1", "--identity", "hub", "--address", f"{HOST}:0"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_sides_safely(sites, start, number):
    server = serve(start)
    url = f"https://{HOST}:{server.until('listening')['port']}"
    site = start("join", url, "plan.py", "--data", "lyon.csv", "--identity", "lyon")
    site.until("enrolled")
    for held, event in ((site, "interrupted"), (server, "ended")):
        os.kill(held.process.pid, number)
        last = held.end(signals.INTERRUPTED)
        assert last["event"] == event
        assert last["again"].startswith(f"muster {'join' if held is site else 'serve'} ")
    assert server.process.returncode == 130


def member(name, rows=10, present=True):
    return {"name": name, "client": name, "rows": rows, "present": present}


def look(*members, wanted="run", phase="waiting"):
    return {"members": list(members), "wanted": wanted, "phase": phase}


@pytest.mark.parametrize(
    ("before", "now", "texts"),
    [
        (None, look(), ["waiting for sites: 0 of 2 are here"]),
        (None, look(member("a"), member("b")), ["enrolled: a, b"]),
        (
            look(),
            look(member("a")),
            ["a has joined with 10 rows", "waiting for sites: 1 of 2 are here"],
        ),
        (look(member("a")), look(member("a", rows=11)), ["a has 11 rows now"]),
        (
            look(member("a"), phase="training"),
            look(member("a", present=False), phase="training"),
            ["a is away, or has failed three times in a row"],
        ),
        (
            look(member("a", present=False), phase="training"),
            look(member("a"), phase="training"),
            ["a is back"],
        ),
        (look(), look(wanted="pause"), ["paused by an operator, once the open round has ended"]),
        (look(wanted="pause"), look(), ["goes on", "waiting for sites: 0 of 2 are here"]),
        (look(), look(), []),
    ],
)
def test_what_changes_between_two_looks(before, now, texts):
    assert [event["text"] for event in watcher.changes(before, now, 2)] == texts


def test_nothing_that_a_site_is_told_steers_a_terminal(capsys):
    told = Told(as_json=False, quiet=False)
    odd = "a\x1b]0;owned\x07\x1b[2Jb"
    told.hear({"event": "told", "text": odd})
    told.hear({"event": "declined", "round": 1, "text": odd})
    told.hear({"event": "refused", "reason": "late", "text": odd})
    told.hear({"event": "waiting", "why": odd, "seconds": 1.0})
    told.hear({"event": "enrolled", "run": odd, "client": odd})
    said = capsys.readouterr().out
    assert said.count("owned") == 6 and "\x1b" not in said and "\x07" not in said


def test_a_site_tells_each_thing_once(capsys):
    told = Told(as_json=False, quiet=False)
    lost = {"event": "waiting", "why": "ConnectError", "seconds": 1.0}
    events = (
        {"event": "enrolled", "run": "heart", "client": "lyon"},
        lost,
        lost,
        {"event": "task", "round": 3},
        {"event": "progress", "round": 3, "step": 1, "steps": 2},
        {"event": "update", "round": 3, "size": 2000, "digest": ""},
        {"event": "verdict", "round": 3, "accepted": True},
        {"event": "settled", "round": 3, "accepted": False},
        {"event": "failed", "round": 4, "stage": "train", "error": "plan.py\nValueError: [x]"},
        {"event": "declined", "round": 5, "text": "at night only"},
        {"event": "declined", "round": 6, "text": "at night only"},
    )
    for event in events:
        told.hear(event)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        line.split()
        for line in (
            "· enrolled in the run heart as lyon",
            "! the server does not answer (ConnectError); trying again",
            "· the server answers again",
            "· round 3 training",
            "· round 3 sent, 2.0 kB",
            "· round 3 not counted",
            "! round 4 failed at stage train: ValueError: [x]",
            "plan.py",
            "ValueError: [x]",
            "! round 5 at night only",
        )
    ]


def committed(folder):
    """A run of one round, in which one client failed."""
    store = SQLiteStore(folder)
    store.note(plan={"rounds": 2})
    failed = [{"client": "b", "stage": "train", "error": "plan.py, line 3\nValueError: [x]"}]
    record = {"round": 1, "invited": ["a", "b"], "accepted": ["a"], "failed": failed}
    store.commit(1, {"x": np.zeros(2)}, record, ["a"])
    store.close()


def test_the_status_of_a_federation_that_does_not_run(shell):
    committed(shell.folder / "runs" / "heart")
    found = shell.json("status", "heart")[0]
    assert not found["running"] and found["committed"] == 1
    assert [(m["name"], m["accepted"], m["failed"]) for m in found["members"]] == [
        ("a", 1, 0),
        ("b", 0, 1),
    ]
    text = shell("status", "heart")
    assert "no server runs" in text and "failed in round 1: ValueError: [x]" in text
    assert "plan.py, line 3" in text  # the whole of what the site said


def test_the_status_of_one_that_runs(shell, monkeypatch):
    committed(shell.folder / "runs" / "heart")
    seat = {"client": "a", "standing": "failed", "reason": "train", "text": "one\nValueError: two"}
    said = look(member("a"), member("c", present=False), phase="training") | {
        "run": "heart",
        "committed": 1,
        "round": 2,
        "asked": "train",
        "lease": 15.0,
        "seats": [seat],
        "refusals": {"late": 2},
    }
    monkeypatch.setattr(control, "ask", lambda *_: said)
    text = shell("status", "heart")
    for words in (
        "2 is training: 1 failed",
        "2 late",
        "failed in round 2, which is open: ValueError: two",
        "a said",
    ):
        assert words in text
    assert status.told(shell.folder / "runs" / "heart")["refusals"] == {"late": 2}


@pytest.mark.parametrize("verb", ["pause", "drain", "resume", "stop"])
def test_an_order_to_nobody(shell, verb):
    committed(shell.folder / "runs" / "heart")
    assert "no server runs in runs/heart; " in shell.fails(verb, "heart")
    assert "name the run's folder" in shell.fails(verb)
    assert "there is no run 'nope'" in shell.fails(verb, "nope")
