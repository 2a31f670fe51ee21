# SPDX-License-Identifier: Apache-2.0
"""Refusals of the commands of a federation, in a sentence, before anything is begun."""

import signal
import subprocess
import sys

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

from muster.cli.federation import signals

HOST = "127.0.0.1"
PLAIN = ("--plain", "--address", f"{HOST}:0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve", "plan.py", "--path", "x"), "give --identity FOLDER"),
        (("serve", "plan.py", "--path", "x", "--plain", "--identity", "y"), "leave one of"),
        (("serve", "nope.py", "--path", "x", *PLAIN), "nope.py does not exist"),
        (("serve", "plan.py", "--path", "x", "--plain", "--address", "0.0.0.0:0"), "plain HTTP on"),
        (("serve", "plan.py", "--path", "x", "--plain", "--address", "here"), "is not HOST:PORT"),
        (
            ("serve", "plan.py", "--path", "x", *PLAIN, "--set", "stop=[Target('loss', 1.0)]"),
            "whether its sites have any",
        ),
        (("serve", "plan.py", "--path", "x", *PLAIN, "--study", "../x"), "the name of a study"),
        (("run", "plan.py", "--study", "hearts"), "give --processes with it"),
        (("join", "plan.py", "--data", "x"), "give --identity FOLDER"),
        (
            ("join", "plan.py", "--data", "x", "--plain", "--name", "a"),
            "give http://127.0.0.1:PORT",
        ),
        (("join", "https://hub", "--data", "x", "--identity", "a"), "give one plan file"),
        (("join", "plan.py", "--data", "x", "--identity", "a"), "holds no identity"),
        (
            ("join", f"http://{HOST}:1", "plan.py", "--data", "x", "--plain", "--name", "a"),
            "has no function local_data",
        ),
        (("doctor", "--data", "x"), "give the plan file"),
    ],
)
def test_what_is_refused_in_a_sentence(shell, words, message):
    told = shell.fails(*words)
    assert message in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1", "a pair (x, y) of arrays is required"),
        ("return np.zeros((2, 3)), np.zeros(1, int)", "2 rows in x but 1 in y"),
        ("return np.zeros((2, 4)), np.zeros(2, int)", "evaluate_on() in plan.py: "),
        ("raise KeyError('x')", "failed in evaluate_on(): KeyError"),
    ],
)
def test_central_rows_that_are_no_good(shell, body, message):
    path = shell.folder / "plan.py"
    path.write_text(path.read_text() + f"\n\ndef evaluate_on():\n    {body}\n")
    assert message in shell.fails("serve", "plan.py", "--path", "x", *PLAIN)


BARE = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in ("cryptography", "httpx", "sqlalchemy", "uvicorn", "prometheus_client"):
            raise ModuleNotFoundError(f"no {root}", name=root)
sys.meta_path.insert(0, Nowhere())
from muster.cli.app import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--help",), " drain "),
        (("serve", "plan.py", "--path", "x", "--plain"), "pip install 'muster-fl[service]'"),
        (("join", "plan.py", "--data", "x", "--identity", "y"), "pip install 'muster-fl[site]'"),
        (("doctor",), "pip install 'muster-fl[site]'"),
    ],
)
def test_without_the_packages_of_the_network(shell, words, told):
    done = subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and told in done.stdout + done.stderr


def test_a_second_signal_of_the_same_moment_is_an_echo():
    now = [0.0]
    with signals.graceful(lambda: now[0]) as stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert stop.is_set()
        now[0] = 2.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
