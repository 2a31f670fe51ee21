# SPDX-License-Identifier: Apache-2.0
"""Where the system is no POSIX all of muster can be imported, and what needs locks says so."""

import json
import subprocess
import sys

import pytest

from muster.cli.app import COMMANDS

# What the standard library of Windows lacks. Whoever else is imported has a Windows of their own.
WITHOUT = """
import importlib, os, pkgutil, signal, socket, sys
OTHERS = "asyncio cryptography.x509 getpass httpx jax matplotlib multiprocessing.connection numpy"
OTHERS += " rich.console shutil sqlalchemy sqlite3 ssl subprocess tempfile torch typer uuid uvicorn"
for name in (OTHERS + " zstandard prometheus_client dp_accounting").split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for name in "fcntl resource termios pwd grp tty pty".split():
    sys.modules[name] = None
MISSING = {
    os: "pread pwrite fchmod statvfs getuid geteuid O_CLOEXEC O_NOFOLLOW O_DIRECTORY memfd_create"
    " MFD_CLOEXEC sched_getaffinity fork killpg getpgid setsid uname sysconf",
    signal: "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGCHLD SIGWINCH SIGQUIT SIGALRM pthread_sigmask",
    socket: "AF_UNIX",
}
for module, names in MISSING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""


def on_windows(code, folder):
    """All that a program says there."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, cwd=folder
    )


def test_every_module_can_be_imported(tmp_path):
    for name in ("httpx", "sqlalchemy", "typer"):
        pytest.importorskip(name)
    code = """
import muster
failed = []
for found in pkgutil.walk_packages(muster.__path__, "muster."):
    try:
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    except muster.errors.MissingExtra:
        pass
    except Exception as error:
        failed.append(f"{found.name}: {error!r}")
print(failed)
"""
    done = on_windows(code, tmp_path)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_every_command_says_a_sentence(tmp_path):
    code = """
from muster.cli.app import COMMANDS, main
for name in COMMANDS:
    for more in ([], ["--json"]):
        sys.stderr.flush()
        try:
            main([name, *more])
        except SystemExit as left:
            print(name, left.code)
try:
    main(["--version"])
except SystemExit as left:
    print("version", left.code)
"""
    done = on_windows(code, tmp_path)
    said = done.stderr.strip().splitlines()
    assert len(said) == 2 * len(COMMANDS), done.stderr
    assert all("file locks" in line and "WSL" in line for line in said)
    assert all(json.loads(line)["event"] == "error" for line in said[1::2])
    codes = done.stdout.strip().splitlines()
    assert codes[: len(said)] == [f"{name} 1" for name in COMMANDS for _ in range(2)]
    assert codes[-1] == "version 0" and not list(tmp_path.iterdir())


DOORS = {
    "simulate": "muster.simulate(plan, {0: rows}, path='run')",
    "serve": "serve.serve(serve.ServedFederation(plan, pathlib.Path('run')), None)",
    "join": "join.join(plan, rows, 'http://localhost:1', 'site').send(None)",
    "processes": "processes.federated(plan, None, print, print)",
}


@pytest.mark.parametrize("door", DOORS)
def test_whoever_calls_muster_is_told_before_anything_is_begun(tmp_path, door):
    code = f"""
import pathlib
import numpy as np
import muster
from muster.runs.federation import join, processes, serve
model = muster.tasks.numpy.SoftmaxRegression(2, 2)
plan = muster.Plan(model, muster.algorithms.FedAvg(), muster.Local(epochs=1))
rows = np.ones((4, 2)), np.arange(4) % 2
try:
    {DOORS[door]}
except muster.errors.MusterError as error:
    print(error)
"""
    done = on_windows(code, tmp_path)
    assert "file locks" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert not list(tmp_path.iterdir())
