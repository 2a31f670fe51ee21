# SPDX-License-Identifier: Apache-2.0
"""Files that hold keys and certificates: written whole or not at all, read with a limit."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from muster.errors import IdentityError
from muster.locks import flock

__all__ = ["AUTHORITY", "REVOKED", "has", "locked", "private", "read", "told", "write"]

AUTHORITY, REVOKED = "authority.pem", "revoked.pem"  # in the folder of an authority or a member
LOCK = "lock"
LARGEST = 1 << 24  # bytes of a file that is worth reading


def has(path: Path) -> bool:
    """Return whether there is such a file."""
    with told(path):
        return path.is_file()


def read(path: Path) -> bytes:
    """Return a file's bytes, or an `IdentityError` that says why not."""
    with told(path), path.open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise IdentityError(f"{path} has more than {LARGEST} bytes; name a file of muster pki")
    return data


def private(path: Path) -> bytes:
    """Return a private key's file, when nobody but its owner can read it."""
    data = read(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise IdentityError(f"{path} can be read by others (mode {mode:o}); run chmod 600 {path}")
    return data


def write(path: Path, data: bytes, mode: int = 0o644, *, fresh: bool = False) -> None:
    """Replace a file as a whole and for good; a `fresh` one must not exist yet."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with told(path):
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as stream:
                os.fchmod(descriptor, mode)
                stream.write(data)
                stream.flush()
                os.fsync(descriptor)
            if fresh:
                os.link(part, path)
            else:
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for oneself: whoever else wants to change it waits."""
    with told(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        flock(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence."""
    try:
        yield
    except FileExistsError:
        raise IdentityError(f"{path} already exists and is not overwritten") from None
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror or error}") from None
