# SPDX-License-Identifier: Apache-2.0
"""The doctor finds every fault that is put before it, and nothing where there is none."""

import re
import shutil
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

pytest.importorskip("cryptography")

from tests.federation.coordinator.masked import plan_of

import muster
from muster import algorithms, optimizers, pipeline, sampling, tasks
from muster.errors import DataError
from muster.runs.federation import doctor
from muster.runs.federation.doctor import USUAL
from muster.security import pki
from muster.security.audit import AuditLog

Usage = namedtuple("Usage", "total used free")
SERVER = "https://hub.example:8443"


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """An authority, a server, a site."""
    base, now = tmp_path_factory.mktemp("homes"), datetime.now(UTC)
    pki.init(base / "hq", "Heart study", now)
    for name, role in (("hub", "server"), ("lyon", "site")):
        request, _ = pki.ask(base / name, name)
        done = pki.approve(base / "hq", request, pki.Grant(SERVER, role), now)
        pki.accept(done.bundle, base / name, now)
    return base


@pytest.fixture
def lyon(homes, tmp_path):
    shutil.copytree(homes / "lyon", tmp_path / "lyon")
    return tmp_path / "lyon"


@pytest.fixture
def plan():
    return muster.Plan(
        task=tasks.numpy.SoftmaxRegression(3, 2),
        algorithm=algorithms.FedAvg(),
        local=muster.Local(epochs=1, batch=4, optimizer=optimizers.SGD(0.5)),
        sampling=sampling.All(),
        rounds=1,
    )


def later(**given):
    return replace(USUAL, now=lambda: datetime.now(UTC) + timedelta(**given))


def levels(found):
    return [finding.level for finding in found]


def test_what_is_installed_is_told():
    (found,) = doctor.versions(serves=True)
    assert found.level == "ok" and "numpy" in found.found and "OpenSSL" in found.found


def test_a_site_needs_no_package_of_a_server(monkeypatch):
    def known(name):
        if name in doctor.SERVER:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", known)
    (site,), (server,) = doctor.versions(serves=False), doctor.versions(serves=True)
    assert (site.level, site.cure) == ("ok", "")
    assert server.level == "problem" and "sqlalchemy, uvicorn is not installed" in server.found
    assert server.cure == "pip install 'muster-fl[service]'"


def test_it_is_told_by_which_name_it_was_installed(monkeypatch):
    def known(name):
        if name == "muster-fl":
            raise PackageNotFoundError(name)
        return "7.0"

    monkeypatch.setattr(doctor, "version", lambda name: "7.0")
    assert "muster-fl 7.0, numpy 7.0" in doctor.versions(serves=True)[0].found
    monkeypatch.setattr(doctor, "version", known)
    (found,) = doctor.versions(serves=True)
    assert found.level == "ok" and "muster-fl from a folder that is not installed" in found.found


@pytest.mark.parametrize(("name", "role"), [("hub", "server"), ("lyon", "site")])
def test_a_sound_identity_has_no_fault(homes, name, role):
    found = doctor.certificate(homes / name)
    assert levels(found) == ["ok", "ok"]
    assert f"{name} is a {role} of {SERVER} until" in found[0].found


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"days": 340}, "warning", "days left"),
        ({"days": 366}, "problem", "expired"),
        ({"days": -2}, "problem", "after now"),
    ],
)
def test_the_dates_of_a_certificate(lyon, given, level, words):
    found = [f for f in doctor.certificate(lyon, later(**given)) if f.level != "ok"]
    assert levels(found) == [level] and words in found[0].found and found[0].cure


def test_a_key_that_others_can_read(lyon):
    (lyon / "identity.pem").chmod(0o644)
    (found,) = doctor.certificate(lyon)
    assert found.level == "problem" and found.cure == f"chmod 600 {lyon / 'identity.pem'}"


def test_an_older_revocation_list_that_was_put_back(homes, lyon, tmp_path):
    shutil.copytree(homes / "hq", tmp_path / "hq")
    old = (lyon / "revoked.pem").read_bytes()
    pki.revoke(tmp_path / "hq", "hub", "left", datetime.now(UTC))
    shutil.copy(tmp_path / "hq/revoked.pem", lyon)
    assert pki.revoked(lyon)
    (lyon / "revoked.pem").write_bytes(old)
    found = doctor.certificate(lyon)[0]
    assert found.level == "problem" and "number 0, and number 1 is known here" in found.found
    assert found.cure == f"copy the authority's newest revoked.pem to {lyon}"


def test_a_revoked_certificate(homes, lyon, tmp_path):
    shutil.copytree(homes / "hq", tmp_path / "hq")
    pki.revoke(tmp_path / "hq", "lyon", "left", datetime.now(UTC))
    shutil.copy(tmp_path / "hq/revoked.pem", lyon)
    (found,) = doctor.certificate(lyon)
    assert found.level == "problem" and "revoked" in found.found


def test_another_authority(lyon, tmp_path):
    pki.init(tmp_path / "other", "Heart study", datetime.now(UTC))
    for name in ("authority.pem", "revoked.pem"):
        shutil.copy(tmp_path / "other" / name, lyon)
    assert doctor.certificate(lyon)[-1].level == "problem"


def test_a_folder_without_an_identity(tmp_path):
    (found,) = doctor.certificate(tmp_path)
    assert found.level == "problem" and "holds no identity" in found.found


def broken(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ({"free": 10 << 30, "sync": 0.001}, ["ok", "ok"]),
        ({"free": 100, "sync": 0.001}, ["problem", "ok"]),
        ({"free": 16 << 20, "sync": 0.001}, ["problem", "ok"]),  # as much as the store's log takes
        ({"free": 10 << 30, "sync": 0.5}, ["ok", "warning"]),
    ],
)
def test_the_room_and_the_speed_of_a_disk(tmp_path, plan, effects, expected):
    world = replace(
        USUAL, free=lambda _: Usage(0, 0, effects["free"]), sync=lambda _: effects["sync"]
    )
    assert levels(doctor.disk(tmp_path / "not" / "yet", plan, effects=world)) == expected


def test_a_disk_that_takes_nothing(tmp_path):
    (found,) = doctor.disk(tmp_path, None, effects=replace(USUAL, sync=broken))
    assert found.level == "problem" and "No space left" in found.found


def test_the_disk_is_written_and_left_clean(tmp_path, plan):
    assert doctor.disk(tmp_path, plan)[0].level == "ok"
    assert not list(tmp_path.iterdir())


def unreadable():
    raise DataError("local_data() in plan.py failed on rows.csv")


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        (lambda: (np.zeros((5, 3), np.float32), np.zeros(5, int)), "ok"),
        (lambda: (np.zeros((5, 4), np.float32), np.zeros(5, int)), "problem"),
        (lambda: (np.zeros((5, 3), np.float32), np.full(5, 2)), "problem"),
        (lambda: (np.zeros((0, 3), np.float32), np.zeros(0, int)), "problem"),
        (unreadable, "problem"),
    ],
)
def test_rows_that_do_not_fit_the_plan(plan, rows, level):
    found, *step = doctor.data(plan, rows)
    assert found.level == level
    assert levels(step) == (["ok"] if level == "ok" else [])


def begun():
    return {"w": np.zeros(3)}


def fitted(model, data, config):
    return model["unknown"]


def measured(model, data):
    return {"loss": 0.0}


def test_a_step_of_training_is_tried():
    task, local = tasks.custom.Custom(begun, fitted, measured), muster.Local(epochs=3, batch=4)
    plan = muster.Plan(task=task, algorithm=algorithms.FedAvg(), local=local)
    fit, step = doctor.data(plan, lambda: (np.ones((5, 3)).tolist(), np.zeros((5, 1), int)))
    assert (fit.level, step.level) == ("ok", "problem")
    assert step.found.startswith("a step of training fails") and "'unknown'" in step.found


def test_a_port_that_is_taken(tmp_path):
    assert levels(doctor.port("127.0.0.1:0")) == ["ok"]
    taken = replace(USUAL, listen=broken)
    assert levels(doctor.port("127.0.0.1:8443", effects=taken)) == ["problem"]
    (tmp_path / "control.sock").touch()
    assert levels(doctor.port("127.0.0.1:8443", tmp_path, taken)) == ["warning"]
    assert levels(doctor.port("nonsense")) == ["problem"]


def test_a_folder_for_a_run(tmp_path):
    tmp_path.chmod(0o750)
    assert levels(doctor.folder(tmp_path / "new")) == ["ok"]
    tmp_path.chmod(0o755)
    assert levels(doctor.folder(tmp_path)) == ["warning"]
    assert levels(doctor.folder(tmp_path / ("x" * 100))) == ["problem"]
    (tmp_path / "file").touch()
    assert levels(doctor.folder(tmp_path / "file" / "run")) == ["problem"]


def test_an_audit_log_that_was_changed(tmp_path):
    assert levels(doctor.log(tmp_path)) == ["ok"]
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, lambda: 0.0, purpose="server", id="r")
    log.append("operator", "pause")
    log.close()
    assert "2 entries" in doctor.log(tmp_path)[0].found
    path.write_text(path.read_text().replace("pause", "drain"))
    assert levels(doctor.log(tmp_path)) == ["problem"]


def test_which_plan_it_is(plan):
    assert "8 parameters" in doctor.plan(plan).found


FLOORS = [
    ({}, "warning", "a session of 3 is taken part in, whatever All() draws.*needs 2 clients"),
    ({"secure": {"minimum": 20}}, "ok", "fewer than 22 is declined.*needs 8 clients"),
    ({"minimum": 20}, "ok", "fewer than 22 is declined.*needs 8 clients"),
    ({"minimum": 0.5}, "warning", "a session of 3 is taken part in"),
    ({"sampling": sampling.Uniform(count=40)}, "ok", "fewer than 40 is declined.*needs 14 clients"),
    ({"sampling": sampling.Poisson(0.1)}, "warning", "whatever Poisson"),
]


@pytest.mark.parametrize(("changed", "level", "words"), FLOORS)
def test_a_plan_that_states_no_floor_of_its_sums_is_warned_of(changed, level, words):
    more = {name: value for name, value in changed.items() if name != "secure"}
    secure = pipeline.SecureSum(**changed.get("secure", {}))
    (found,) = doctor.sums(plan_of(secure=secure, **more))
    assert found.level == level and re.search(words.replace("()", r"\(\)"), found.found), found
    assert ("SecureSum(minimum=20)" in found.cure) == (level == "warning")


def test_of_a_plan_without_masks_nothing_is_said_of_its_sums(plan):
    assert doctor.sums(plan) == []
