# SPDX-License-Identifier: Apache-2.0
"""`require` imports what is there, names the extra of what is not, and hides no other fault."""

import json

import pytest

from muster.errors import MissingExtra
from muster.extras import require


def test_what_is_installed_is_imported():
    assert require("json", extra="none") is json
    assert require("json.decoder", extra="none") is json.decoder


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_what_is_absent_names_the_command_that_brings_it(module):
    with pytest.raises(MissingExtra, match=r"'no_such_package'.*pip install 'muster-fl\[torch\]'"):
        require(module, extra="torch")


def test_a_missing_part_of_a_present_package_is_not_blamed_on_the_extra():
    with pytest.raises(ModuleNotFoundError, match=r"json\.gone"):
        require("json.gone", extra="none")


def test_a_package_that_needs_another_is_not_blamed_either(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        require("halfway", extra="none")
    assert not isinstance(caught.value, MissingExtra)
