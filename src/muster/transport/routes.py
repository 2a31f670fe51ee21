# SPDX-License-Identifier: Apache-2.0
"""The one table of what is asked where: kinds of question, method, path, kinds of answer.

The client writes addresses by it, the server finds what to do by it, and the document of the API
is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl

from muster.federation.protocol import message
from muster.federation.protocol.limits import (
    ANSWER,
    MEMBERS_ANSWER,
    PLAN_ANSWER,
    SESSION_ANSWER,
)
from muster.federation.protocol.message import Message
from muster.federation.protocol.transport import (
    MembersQuery,
    ModelQuery,
    PlanQuery,
    SessionBody,
    SessionQuery,
    UpdateBody,
)
from muster.security.refusal import malformed

__all__ = ["PREFIX", "ROUTES", "Route", "found", "number_in", "route_of"]

PREFIX = "/v1/"
NUMBER = re.compile(r"[0-9]{1,16}")
PIECES = ("digest", "size", "offset")  # of a body that does not go as a whole
HOLES = {"round": r"[1-9][0-9]{0,9}", "digest": r"[0-9a-f]{64}"}  # what may stand in a path


@dataclass(frozen=True)
class Route:
    """Where a question of some kinds is asked, and what answers it.

    Fields: `asked` and `told`, the kinds of question and of the messages that answer it; `query`,
    the fields of a question behind the "?", in this order, with "offset" for where a body goes on;
    `usual`, what those mean that may be left out; `longest`, the bytes of an answer, None where
    whoever reads it counts; `raw`, whether an answer may be bytes; `packs`, whether a body may be
    packed.
    """

    method: str
    path: str
    asked: tuple[type, ...]
    told: tuple[type[Message], ...] = ()
    query: tuple[str, ...] = ()
    usual: Mapping[str, Any] = field(default_factory=dict)
    longest: int | None = ANSWER
    raw: bool = False
    packs: bool = False
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = re.split(r"\{(\w+)\}", self.path)
        marked = (f"(?P<{p}>{HOLES[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
        object.__setattr__(self, "pattern", re.compile("".join(marked)))

    def address(self, question: Any, offset: int = 0) -> str:
        """Return the path and query of a question.

        >>> route_of(UpdateBody).address(UpdateBody(3, "0" * 64, 10), 4)[-17:]
        '?offset=4&size=10'
        """
        values = vars(question) | {"offset": offset}
        said = [(name, values[name]) for name in self.query]
        if "digest" in self.query and not values["digest"]:  # whole, and not in pieces
            said = [(name, value) for name, value in said if name not in PIECES]
        query = "&".join(f"{name}={value}" for name, value in said)
        return self.path.format_map(values) + (f"?{query}" if query else "")

    def question(self, holes: Mapping[str, str], query: str) -> tuple[Any, int]:
        """Return the question at an address, and the offset of a body. Raises `Refused`.

        >>> route_of(MembersQuery).question({}, "round=3")
        (MembersQuery(round=3), 0)
        """
        kind, said = self.asked[0], dict(parse_qsl(query)) | dict(holes)
        rules = {one.name: str(one.type) for one in fields(kind)} | {"offset": "int"}
        found = {name: self._read(name, said, rules[name]) for name in (*holes, *self.query)}
        offset = found.pop("offset", 0)
        return kind(**found), offset

    def _read(self, name: str, said: Mapping[str, str], rule: str) -> Any:
        text = said.get(name)
        if text is None and name in self.usual:
            return self.usual[name]
        if rule == "str":
            return text or ""
        if rule == "int":
            if text is None or not NUMBER.fullmatch(text):
                malformed(name, text or "", "a whole number, as in ?offset=0&size=1000")
            return int(text)
        try:
            value = float(text or "")
        except ValueError:
            value = -1.0
        if not 0 <= value < math.inf:
            malformed(name, text or "", "a number from 0 up")
        return value


_M = message
ROUTES = (
    Route("POST", "/v1/hello", (_M.Hello,), (_M.Welcome,)),
    Route("GET", "/v1/plan", (PlanQuery,), raw=True, longest=PLAN_ANSWER),
    Route(
        "POST",
        "/v1/poll",
        (_M.Poll,),
        (_M.TrainAssignment, _M.Evaluate, _M.Settled, _M.Wait, _M.RunEnded),
    ),
    Route(
        "GET",
        "/v1/models/{digest}",
        (ModelQuery,),
        query=("round",),
        usual={"round": 0},
        longest=None,
    ),
    Route("POST", "/v1/updates", (_M.UpdateHeader,), (_M.ResumeAt,)),
    Route(
        "PUT",
        "/v1/updates/{round}/{digest}",
        (UpdateBody,),
        (_M.ResumeAt,),
        query=("offset", "size"),
        packs=True,
    ),
    Route(
        "POST", "/v1/answers", (_M.Decline, _M.TrainingFailure, _M.Progress, _M.Measured), (_M.Ack,)
    ),
    Route(
        "GET",
        "/v1/members",
        (MembersQuery,),
        query=("round",),
        usual={"round": 0},
        raw=True,
        longest=MEMBERS_ANSWER,
    ),
    Route(
        "POST",
        "/v1/secure/{round}",
        (SessionBody,),
        (_M.ResumeAt,),
        query=("attempt", "digest", "size", "offset"),
        usual={"attempt": 1, "digest": "", "size": 0, "offset": 0},
    ),
    Route(
        "GET",
        "/v1/secure/{round}",
        (SessionQuery,),
        (_M.Wait,),
        query=("attempt", "after", "wait"),
        usual={"attempt": 1, "after": 0, "wait": 0.0},
        raw=True,
        longest=SESSION_ANSWER,
    ),
    Route("GET", "/openapi.json", (), raw=True),
    Route("GET", "/healthz", (), raw=True),
)

_BY_KIND = {kind: route for route in ROUTES for kind in route.asked}
_BY_PATH: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _BY_PATH.setdefault(_route.path, {})[_route.method] = _route
_TEMPLATES = [next(iter(methods.values())) for path, methods in _BY_PATH.items() if "{" in path]


def route_of(kind: type) -> Route:
    """Return the route of a kind of question.

    >>> route_of(message.Poll).path
    '/v1/poll'
    """
    return _BY_KIND[kind]


def found(path: str) -> tuple[dict[str, Route], dict[str, str]]:
    """Return the routes at a path by their method, if any, and what its holes hold.

    >>> methods, holes = found("/v1/secure/7")
    >>> sorted(methods), holes, found("/v1/{digest}")[0]
    (['GET', 'POST'], {'round': '7'}, {})
    """
    if "{" in path:
        return {}, {}
    methods = _BY_PATH.get(path)
    if methods is None and path.startswith(PREFIX):
        for route in _TEMPLATES:
            match = route.pattern.fullmatch(path)
            if match:
                return _BY_PATH[route.path], match.groupdict()
    return methods or {}, {}


def number_in(said: str) -> int | None:
    """Return the whole number that a header says, below 10^18; None where it says none.

    >>> number_in("12"), number_in("-1"), number_in("²"), number_in("9" * 5000)
    (12, None, None, None)
    """
    return int(said) if re.fullmatch(r"[0-9]{1,18}", said) else None
