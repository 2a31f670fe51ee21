# SPDX-License-Identifier: Apache-2.0
"""`muster doctor`: what it looks at, how it says what it found, and its exit status."""

import pytest

pytest.importorskip("cryptography")

from muster.runs.federation import connectivity, doctor

LOADER = """

def local_data(path):
    x = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return x, np.zeros(len(x), int)
"""


@pytest.fixture
def homes(shell, monkeypatch):
    """A server and a site; the way to the server is not walked."""
    shell("pki", "init", "hq", "--name", "Heart study")
    for name, more in (("hub", ("--role", "server")), ("lyon", ())):
        request = shell.json("pki", "request", name, "--out", name)[0]["request"]
        words = ("pki", "approve", "hq", request, "--server", "https://hub.example:8443", *more)
        shell("pki", "accept", shell.json(*words)[0]["bundle"], "--folder", name)
    found = [doctor.Finding("port", "ok", "open")]
    monkeypatch.setattr(connectivity, "reach", lambda url, home: found)
    path = shell.folder / "plan.py"
    path.write_text(path.read_text() + LOADER)
    return shell


def checks(found):
    return [finding["check"] for finding in found]


def test_a_site_that_can_begin(homes):
    (homes.folder / "rows.csv").write_text("1,2,3\n4,5,6\n")
    words = ("doctor", "--identity", "lyon", "--plan", "plan.py", "--data", "rows.csv")
    found = homes.json(*words)
    assert {"certificate", "authority", "port", "plan", "disk", "data"} <= set(checks(found))
    assert "problem" not in {finding["level"] for finding in found}
    assert "2 rows of 3 features fit the plan" in homes(*words)


def test_rows_of_another_shape_are_a_problem(homes):
    (homes.folder / "rows.csv").write_text("1,2\n4,5\n")
    words = ("doctor", "--identity", "lyon", "--plan", "plan.py", "--data", "rows.csv")
    text = homes(*words, code=1)
    assert "✗ data" in text and "→" in text


def test_a_server_looks_at_its_folder_and_its_port(homes):
    found = homes.json("doctor", "--identity", "hub", "--path", "heart", "--address", "127.0.0.1:0")
    assert {"port", "folder", "audit", "disk"} <= set(checks(found))


def test_a_missing_identity_and_a_broken_plan_do_not_end_the_visit(homes):
    found = homes.json("doctor", "--identity", "nobody", "--plan", "nope.py", code=1)
    problems = {finding["check"] for finding in found if finding["level"] == "problem"}
    assert problems == {"certificate", "plan"} and checks(found)[-1] == "fsync"
