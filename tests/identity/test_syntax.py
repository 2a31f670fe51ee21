# SPDX-License-Identifier: Apache-2.0
"""A source says the same, whatever comments and layout say beside it."""

import ast
from hashlib import sha256

import pytest

from muster.identity.syntax import canonical, parsed, piece

ONE = '''
"""A module."""
import torch.nn as nn

def f(x, y=2):
    """Adds."""
    pass
    return {"a": (x + 1,), 'b': "it" "self"}

class Net(nn.Module):
    "A net."
'''
SAME = """import torch.nn as nn
def f(x,
      y = 2):
    # adds, they say
    return {'a': (x+1, ), "b": ('itself')}
class Net(nn.Module): 'Says more.'
"""


def test_comments_docstrings_and_layout_say_nothing():
    assert canonical(ast.parse(ONE)) == canonical(ast.parse(SAME))


@pytest.mark.parametrize(
    ("old", "new"),
    [("x + 1", "x + 2"), ("y=2", "y=2.0"), ('"a"', '"c"'), ("x + 1", "x - 1"), ("(x + 1,)", "x")],
)
def test_anything_else_says_something(old, new):
    assert canonical(ast.parse(ONE)) != canonical(ast.parse(ONE.replace(old, new)))


def test_a_string_that_is_no_docstring_counts():
    assert canonical(ast.parse("f('a')")) != canonical(ast.parse("f('b')"))
    assert canonical(ast.parse("def f():\n    return 'a'")) != canonical(
        ast.parse("def f():\n    return 'b'")
    )


def test_fields_that_a_later_release_of_python_adds_change_nothing():
    older, later = (ast.parse("def f(): return 1") for _ in range(2))
    later.body[0]._fields = (*later.body[0]._fields, "added")
    later.body[0].added = []
    assert canonical(older) == canonical(later)
    later.body[0].added = [ast.Name("T")]
    assert canonical(older) != canonical(later)


def test_an_import_is_known_name_by_name():
    names = [sorted(p.binds) for p in parsed("from torch import nn, optim as o\nimport a.b").pieces]
    assert names == [["nn"], ["o"], ["a"]]


@pytest.mark.parametrize(
    ("text", "binds", "names"),
    [
        ("x = f(y)", {"x"}, {"f", "y"}),
        ("x.a[0] = y", {"x"}, {"x", "y"}),
        ("def f(a, b=c):\n    d = a\n    return d + e", {"f"}, {"c", "e"}),
        ("class A(B):\n    c = D\n    def m(self): return c + F.g", {"A"}, {"B", "D", "c", "F"}),
        ("try:\n    import q\nexcept ImportError:\n    q = None", {"q"}, {"ImportError"}),
        ("for i in r: g(i)", {"i"}, {"r", "g"}),
        ("print([z for z in y if z > w])", set(), {"print", "y", "w"}),
        ("try:\n    from a import *\nexcept b: pass", {"*"}, {"b"}),
        ("x: T = [f(y) for y in {k: v for k, v in z}]", {"x"}, {"f", "z", "T"}),
        ("def f():\n    global n\n    n += 1", {"f"}, {"n"}),
    ],
)
def test_a_statement_binds_names_and_looks_others_up(text, binds, names):
    (one,) = parsed(text).pieces
    assert (one.binds, one.names) == (binds, names)


def test_what_only_a_script_does_is_left_out():
    assert parsed("x = 1\nif __name__ == '__main__':\n    x = 2\n").pieces == parsed("x=1").pieces


def test_attributes_are_read_with_what_they_are_read_from():
    (one,) = parsed("x = nn.functional.relu(models.Net().head)").pieces
    assert one.chains == {"x", "nn.functional.relu", "models.Net"}


def test_a_lambda_is_found_among_others_on_its_line():
    text = "a, b = lambda: (1, lambda: 2), lambda z=3: z\n"
    names = {}
    exec(compile(text, "made", "exec"), names)
    outer, inner, other = names["a"], names["a"]()[1], names["b"]
    found = [parsed(text).function(f.__code__) for f in (outer, inner, other)]
    assert [ast.unparse(node) for node in found] == [
        "lambda: (1, lambda: 2)",
        "lambda: 2",
        "lambda z=3: z",
    ]


def test_what_is_closed_over_is_no_global():
    one = piece(ast.parse("def f(): return a + b").body[0], without=("a",))
    assert one.names == {"b"}


TRICKY = (
    "from a import b as c, d\nimport e.f\n"
    "names = [n for n in c(x) if (m := n)]\n"
    "table = {k: f'{v!r:>{w}} {e.f.g}' 'and' f'{h}' for k, v in d.items()}\n"
    "@c(lambda z, *y, q=names, **k: (z, y, [i for i in y], q))\n"
    "async def f(a: c, /, b, *, g: 'd' = 1e-3) -> None:\n"
    "    async with a as s, b as t:\n"
    "        async for i in s: yield (await t(i))\n"
    "class K(c.L, metaclass=d):\n"
    "    n = [j for j in range(3)]; o: int = -1; p = {*n, ...}\n"
    "    def m(self): return super().m() + K.o + n[1:2, ::3]\n"
    "match table:\n    case {'a': [1, *r]} | (b'x', r) if r: u = r\n    case K(n=v): del v\n"
    "try: assert not u, 1_0j\nexcept* (c, d) as error: raise error from None\nelse: pass\n"
)


def test_every_release_of_python_reads_the_same():
    """The digest was computed under 3.11, 3.12 and 3.13; another release must agree."""
    parts = [
        (one.text, sorted(one.names), sorted(one.chains), sorted(one.binds))
        for one in parsed(TRICKY).pieces
    ]
    assert sha256(repr(parts).encode()).hexdigest() == GOLDEN


GOLDEN = "7b9ba6d77e360efbc525e64303eec10e94d1e78f553f037bf379e2629177ff28"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("import a", "import"),
        ("def f(): pass", "definition"),
        ("class A: pass", "definition"),
        ("for a in b: c", "block"),
        ("a = {}", "filled"),
        ("a: list = []", "filled"),
        ("a = set()", "filled"),
        ("a = [1]", "other"),
        ("a = f()", "other"),
        ("a += []", "other"),
    ],
)
def test_statements_are_of_kinds(text, kind):
    assert parsed(text).pieces[0].kind == kind


def test_globals_that_functions_set_are_known():
    assert parsed("n = m = 0\ndef f():\n    global n\n    n += 1").moving == {"n"}
