# SPDX-License-Identifier: Apache-2.0
"""Flat vectors by name, and the cut into what is shared and what is not."""

import fnmatch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import PlanError
from muster.layout import Layout, TensorEntry

NET = Layout(
    (
        TensorEntry("body.0.weight", (2, 3)),
        TensorEntry("body.bn.weight", (3,)),
        TensorEntry("body.bn.mean", (3,), "buffer"),
        TensorEntry("head.weight", (2, 2)),
        TensorEntry("head.count", (2,), "buffer"),
        TensorEntry("scale", ()),
    )
)
X = np.arange(14.0)
BUFFERS = np.arange(5.0)


def names(sharing):
    """Which coordinates are shared, by brute force over the runs."""
    return [i for a, b, shared in sharing.parameters if shared for i in range(a, b)]


def test_sizes_count_parameters_and_buffers_apart():
    assert (NET.size, NET.buffers) == (14, 5)
    assert Layout(()).size == 0
    assert TensorEntry("scale", ()).size == 1


def test_named_are_views_in_the_order_of_the_entries():
    views = NET.named(X)
    assert {k: v.shape for k, v in views.items()} == {
        "body.0.weight": (2, 3),
        "body.bn.weight": (3,),
        "head.weight": (2, 2),
        "scale": (),
    }
    assert views["head.weight"].tolist() == [[9, 10], [11, 12]]
    assert np.shares_memory(views["scale"], X)
    assert NET.named(BUFFERS, "buffer")["head.count"].tolist() == [3, 4]


def test_named_keeps_the_axis_of_clients():
    rows = np.stack([X, X + 100])
    assert NET.named(rows)["head.weight"].shape == (2, 2, 2)
    assert NET.named(rows)["scale"].tolist() == [13, 113]


def test_flat_undoes_named():
    np.testing.assert_array_equal(NET.flat(NET.named(X)), X)
    np.testing.assert_array_equal(NET.flat(NET.named(BUFFERS, "buffer"), "buffer"), BUFFERS)
    assert NET.flat(NET.named(X)).dtype == "float32"
    assert Layout(()).flat({}).shape == (0,)


@pytest.mark.parametrize(
    ("share", "shared", "buffers"),
    [
        ("*", range(14), range(5)),
        ("!*", [], []),
        ("body.*", range(9), range(3)),
        ("head.*", range(9, 13), range(3, 5)),
        ("!*.bn.*", [*range(6), *range(9, 14)], range(3, 5)),
        (("body.*", "scale"), [*range(9), 13], range(3)),
        (("body.*", "!*.bn.*"), range(6), []),
        (("!*.bn.*", "!scale"), [*range(6), *range(9, 13)], range(3, 5)),
        ("!*.mean", range(14), range(3, 5)),
    ],
)
def test_patterns_say_what_is_shared(share, shared, buffers):
    sharing = NET.sharing(share)
    assert names(sharing) == list(shared)
    assert sharing.take(X).tolist() == list(shared)
    assert sharing.take(BUFFERS, buffers=True).tolist() == list(buffers)
    assert sharing.averaged == len(buffers)
    assert sharing.everything == (len(shared) == 14 and len(buffers) == 5)


@pytest.mark.parametrize("share", ["tail.*", "!tail.*", ("body.*", "tail"), "BODY.*", "!!*"])
def test_a_pattern_that_matches_nothing_is_refused_with_names(share):
    with pytest.raises(PlanError, match=r"matches none .* use names such as body\.0\.weight"):
        NET.sharing(share)


def test_neighbouring_tensors_form_one_run():
    assert NET.sharing("*").parameters == ((0, 14, True),)
    assert NET.sharing("head.*").parameters == ((0, 9, False), (9, 13, True), (13, 14, False))


def test_everything_is_taken_without_a_copy():
    sharing = NET.sharing("*")
    assert sharing.take(X) is X
    assert sharing.merge(X, None) is X
    assert np.shares_memory(NET.sharing("head.*").take(X), X)


PATTERNS = st.lists(
    st.sampled_from(["*", "a*", "b*", "*1", "!a*", "!*1", "!b?", "c"]), min_size=1, max_size=3
).map(tuple)
ENTRIES = st.lists(
    st.builds(
        TensorEntry,
        st.sampled_from(["a", "a1", "b", "b1", "b2", "c"]),
        st.lists(st.integers(0, 3), max_size=2).map(tuple),
        st.sampled_from(["parameter", "buffer"]),
    ),
    min_size=1,
    unique_by=lambda entry: entry.name,
)


@settings(deadline=None, max_examples=300)
@given(ENTRIES, PATTERNS, st.booleans(), st.integers(0, 2))
def test_merge_undoes_take(entries, patterns, buffers, clients):
    layout = Layout(tuple(entries))
    try:
        sharing = layout.sharing(patterns)
    except PlanError:
        return
    size = layout.buffers if buffers else layout.size
    x = np.arange(float(size)) + 100 * np.arange(clients)[:, None] if clients else np.arange(size)
    shared = sharing.take(x, buffers=buffers)
    private = sharing.take(x, shared=False, buffers=buffers)
    assert shared.shape[-1] + private.shape[-1] == size
    np.testing.assert_array_equal(sharing.merge(shared, private, buffers=buffers), x)
    wanted = [p for p in patterns if p[0] != "!"] or ["*"]
    expected, start = [], 0
    for entry in entries:
        if (entry.kind == "buffer") == buffers:
            yes = any(fnmatch.fnmatchcase(entry.name, p) for p in wanted)
            no = any(fnmatch.fnmatchcase(entry.name, p[1:]) for p in patterns if p[0] == "!")
            if yes and not no:
                expected += range(start, start + entry.size)
            start += entry.size
    np.testing.assert_array_equal(shared, x[..., expected])


@pytest.mark.parametrize("framework", ["torch", "jax.numpy"])
def test_take_and_merge_stay_in_their_framework(framework):
    module = pytest.importorskip(framework)
    x = module.stack([module.arange(14), module.arange(14) + 50])
    sharing = NET.sharing(("body.*", "!*.bn.*"))
    shared, private = sharing.take(x), sharing.take(x, shared=False)
    assert type(shared) is type(x)
    assert np.asarray(sharing.merge(shared, private)).tolist() == np.asarray(x).tolist()
