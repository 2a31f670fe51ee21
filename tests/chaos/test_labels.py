# SPDX-License-Identifier: Apache-2.0
"""Every labelled point of the code is one at which a test kills."""

import ast

from tests.chaos import (
    scene,
    seams,
    test_kill,
    test_network_kill,
    test_rollback_kill,
    test_secure_kill,
    victim,
)

from muster.federation.coordinator.clients import LABELS as ROUND
from muster.federation.site.store import LABELS as VAULT
from muster.store.sqlite import BACK
from muster.store.sqlite import LABELS as COMMIT


def test_every_label_is_killed_at():
    masked = [*test_secure_kill.SERVER, *test_secure_kill.SITE]
    listed = [*COMMIT, *BACK, *ROUND, *VAULT, *masked]
    assert len(set(listed)) == len(listed)
    assert called() | set(masked) == set(listed)  # the masked steps make theirs of their names
    assert set(BACK) < set(test_rollback_kill.POINTS)
    simulated = {label for label, *_ in test_kill.DEATHS}
    assert simulated == {*COMMIT, *victim.SEAMS}
    server = {label for label, *_ in test_network_kill.SERVER}
    assert server == {*COMMIT, *ROUND, *seams.SERVER}
    site = {label for label, *_ in test_network_kill.SITE}
    assert site == {*VAULT, *seams.SITE}
    assert not server & site and not (server | site) & set(masked)


def called():
    """The labels that the code names where it comes by."""
    found = set()
    for path in (scene.ROOT / "src/muster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "_at",
                "at",
            ):
                text = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value
                found |= {text} if isinstance(text, str) and ": " in text else set()
    return found
