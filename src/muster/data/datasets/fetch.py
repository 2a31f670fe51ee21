# SPDX-License-Identifier: Apache-2.0
"""Finding a data file: `$MUSTER_DATA`, then the cache, then its public origin, always verified."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from muster.errors import DatasetError, MissingExtra
from muster.extras import require
from muster.locks import flock

__all__ = ["Opener", "Remote", "cache", "found", "locate"]

Opener = Callable[[str, int], Any]  # (url, first byte) -> a response of urllib, as a context
_BLOCK = 1 << 16
_STALLS = 3  # attempts in a row that may bring nothing


@dataclass(frozen=True)
class Remote:
    """A data file: path below the data folders, SHA-256, and where it comes from.

    `url` is None where no public origin serves exactly this file; `origin` is for people.
    """

    name: str
    sha256: str
    origin: str
    url: str | None = None


BUNDLED = Path(__file__).with_name("files")  # small data that come with muster


def cache() -> Path:
    """Return the folder of downloaded data: `$XDG_CACHE_HOME/muster`, or `~/.cache/muster`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "muster"


def found(file: Remote) -> Path | None:
    """Return the verified file in `$MUSTER_DATA`, the cache or muster itself, or None.

    Raises `DatasetError` when a file is there but damaged.
    """
    for folder in (*_folders(), BUNDLED):
        path = folder / file.name
        if path.is_file():
            _verify(path, file)
            return path
    return None


def locate(file: Remote, opener: Opener | None = None) -> Path:
    """Return the verified file, downloaded into the cache where it is nowhere yet.

    An interrupted download leaves `<name>.part` and goes on from there next time. `opener(url,
    start)` asks for the bytes from `start` on; tests put faults here.

    Raises `DatasetError` when the file is damaged or cannot be had; it says what to put where.
    """
    path = found(file)
    if path is not None:
        return path
    if file.url is None:
        raise DatasetError(f"{_absent(file)}; no public origin serves it: {_remedy(file)}")
    path = cache() / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(path.name + ".lock")):
        if not path.is_file():
            part = path.with_name(path.name + ".part")
            _download(file, part, opener or _request)
            try:
                _verify(part, file)
            except DatasetError:
                part.unlink()
                raise
            os.replace(part, path)
    _verify(path, file)
    return path


def _folders() -> list[Path]:
    given = os.environ.get("MUSTER_DATA")
    return [*([Path(given)] if given else []), cache()]


def _verify(path: Path, file: Remote) -> None:
    with path.open("rb") as stream:
        given = hashlib.file_digest(stream, "sha256").hexdigest()
    if given != file.sha256:
        raise DatasetError(
            f"{path} has SHA-256 {given}, {file.sha256} is required; the file is damaged or of "
            f"another version and was not used: remove it, and {_remedy(file)}"
        )


def _absent(file: Remote) -> str:
    return f"{file.name} is neither in $MUSTER_DATA nor in {cache()}"


def _remedy(file: Remote) -> str:
    folder = _folders()[0]
    return (
        f"get it from {file.origin} and put it at {folder / file.name} "
        f"(SHA-256 {file.sha256[:12]}…)"
    )


def _request(url: str, start: int) -> Any:
    # urllib takes longer to import than muster may; this is the one place that needs it.
    request = require("urllib.request", extra="all")
    headers = {"User-Agent": "muster"} | ({"Range": f"bytes={start}-"} if start else {})
    return request.urlopen(request.Request(url, headers=headers), timeout=30)


def _download(file: Remote, part: Path, opener: Opener) -> None:
    assert file.url is not None
    stalls = 0
    cause: BaseException | None = None
    while stalls < _STALLS:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(file, part, opener, before):
                return
            cause = EOFError("the connection closed early")
        except OSError as error:  # urllib's URLError and HTTPError, timeouts, resets
            cause = error
            getattr(error, "close", int)()  # an HTTPError holds its connection
            if getattr(error, "code", None) == 416:  # nothing beyond what is there
                if _matches(part, file):
                    return
                part.unlink(missing_ok=True)
        after = part.stat().st_size if part.exists() else 0
        stalls = 0 if after > before else stalls + 1
    held = part.stat().st_size if part.exists() else 0
    kept = f" ({held} bytes are kept and the next try goes on from there)" if held else ""
    raise DatasetError(
        f"{_absent(file)}, and {file.url} could not be downloaded: {cause}{kept}; try again with "
        f"a network, or {_remedy(file)}"
    ) from cause


def _transfer(file: Remote, part: Path, opener: Opener, start: int) -> bool:
    assert file.url is not None
    with opener(file.url, start) as response:
        resumed = bool(start) and response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + (start if resumed else 0) if length else None
        done = start if resumed else 0
        with part.open("ab" if resumed else "wb") as stream, _progress(file, total) as advance:
            advance(done)
            done += _copy(response, stream, advance)
            stream.flush()
            os.fsync(stream.fileno())
    return total is None or done >= total


def _copy(response: Any, stream: BinaryIO, advance: Callable[[int], None]) -> int:
    copied = 0
    while block := response.read(_BLOCK):
        copied += stream.write(block)
        advance(len(block))
    return copied


def _matches(part: Path, file: Remote) -> bool:
    try:
        _verify(part, file)
    except (DatasetError, OSError):
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        flock(stream)
        yield


@contextmanager
def _progress(file: Remote, total: int | None) -> Iterator[Callable[[int], None]]:
    bar: Any = nullcontext()
    if sys.stderr.isatty():
        try:
            console = require("rich.console", extra="all").Console(stderr=True)
            bar = require("rich.progress", extra="all").Progress(console=console)
        except MissingExtra:
            pass
    with bar as live:
        if live is None:
            yield lambda count: None
        else:
            task = live.add_task(file.name, total=total)
            yield lambda count: live.update(task, advance=count)
