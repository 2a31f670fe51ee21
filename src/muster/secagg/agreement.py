# SPDX-License-Identifier: Apache-2.0
"""The keys of one client in one session, and what two clients derive from them.

X25519 agreement (Langley et al. 2016, RFC 7748), HKDF-SHA256 (Krawczyk and Eronen 2010, RFC 5869)
and AES-256-GCM for shares on their way, as Bonawitz et al. 2017 section 4 ask. Every derived key
is bound to the session (run, round and all public keys) and to the terms (the plan's fingerprint
and the hash of the model): clients that were given different models hold masks that do not
cancel, so the sum is noise (against Pasquini et al. 2022, "Eluding secure aggregation").

Deviation: a client also publishes a hash of its self seed, so that a wrong share of it shows.
The seed has 256 random bits, so its hash says nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from muster.extras import require

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.ciphers import aead
    from cryptography.hazmat.primitives.kdf import hkdf
else:
    exceptions = require("cryptography.exceptions", extra="site")
    hashes = require("cryptography.hazmat.primitives.hashes", extra="site")
    x25519 = require("cryptography.hazmat.primitives.asymmetric.x25519", extra="site")
    aead = require("cryptography.hazmat.primitives.ciphers.aead", extra="site")
    hkdf = require("cryptography.hazmat.primitives.kdf.hkdf", extra="site")

__all__ = [
    "Binding",
    "LABEL",
    "Pairs",
    "PrivateKey",
    "Secrets",
    "canonical",
    "commitment",
    "framed",
    "usable",
]

NONCE = bytes(12)  # a channel key seals one message, so its nonce may be fixed
LABEL = b"muster secagg 2 "  # before all that is hashed or derived; the protocol's version
FIELD = 2**255 - 19
PROBE = x25519.X25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass(frozen=True, repr=False)
class PrivateKey:
    """An X25519 private key, 32 bytes; read once, agreed with many.

    >>> a, b = PrivateKey(bytes(range(32))), PrivateKey(bytes(range(1, 33)))
    >>> a.agree(b.public) == b.agree(a.public)
    True
    """

    data: bytes

    @cached_property
    def public(self) -> bytes:
        """Its public half, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """Return the secret shared with a public key's holder; ValueError where it is no key."""
        return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(public))

    @cached_property
    def _key(self) -> x25519.X25519PrivateKey:
        return x25519.X25519PrivateKey.from_private_bytes(self.data)


@dataclass(repr=False)
class Pairs:
    """X25519 where both clients of a pair live in one process: worked out for the first to ask.

    Only where the keys of all are here anyway, as in a simulation. The second to ask takes the
    secret out again, so nothing stays behind of a pair that agreed.

    >>> a, b, pairs = PrivateKey(bytes(range(32))), PrivateKey(bytes(range(1, 33))), Pairs()
    >>> pairs.agree(a, b.public) == pairs.agree(b, a.public) == a.agree(b.public)
    True
    """

    waiting: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)

    def agree(self, private: PrivateKey, public: bytes) -> bytes:
        """Return the secret of two clients; ValueError where the public key is none."""
        secret = self.waiting.pop((public, private.public), None)
        if secret is None:
            secret = self.waiting[private.public, public] = private.agree(public)
        return secret


@dataclass(frozen=True, repr=False)
class Secrets:
    """Secrets that a client draws for one session: mask key s_i, channel key e_i, self seed b_i."""

    mask: PrivateKey
    channel: PrivateKey
    seed: bytes

    @classmethod
    def drawn(cls, entropy: Callable[[int], bytes]) -> Secrets:
        """Draw fresh secrets."""
        return cls.read(entropy(96))

    @classmethod
    def read(cls, data: bytes) -> Secrets:
        """Return the secrets that were kept as `data`."""
        return cls(PrivateKey(data[:32]), PrivateKey(data[32:64]), data[64:96])

    @property
    def data(self) -> bytes:
        """96 bytes to keep."""
        return self.mask.data + self.channel.data + self.seed


@dataclass(frozen=True)
class Binding:
    """The binding of every derived key: the session's id and the terms' digest."""

    session: bytes
    context: bytes

    def mask(self, secret: bytes, one: int, other: int) -> bytes:
        """Return the key of the mask that two clients share, from what they agreed on."""
        low, high = sorted((one, other))
        return self._derived(secret, b"mask" + _pair(low, high))

    def own(self, seed: bytes) -> bytes:
        """Return the key of a client's own mask."""
        return self._derived(seed, b"self")

    def seal(self, secret: bytes, sender: int, receiver: int, shares: bytes) -> bytes:
        """Seal shares on their way from one client to another; they grow by 16 bytes.

        AES-256-GCM; session, terms, sender and receiver are the associated data as well.
        """
        key = self._derived(secret, b"share" + _pair(sender, receiver))
        return aead.AESGCM(key).encrypt(NONCE, shares, self._way(sender, receiver))

    def unseal(self, secret: bytes, sender: int, receiver: int, sealed: bytes) -> bytes | None:
        """Return the shares; None where altered, or meant for somebody or something else."""
        key = self._derived(secret, b"share" + _pair(sender, receiver))
        try:
            return aead.AESGCM(key).decrypt(NONCE, sealed, self._way(sender, receiver))
        except exceptions.InvalidTag:
            return None

    def consent(self, shared: bytes, alive: bytes) -> bytes:
        """Return the bytes a client signs before it reveals anything: who shared, who survived."""
        return framed(LABEL + b"survivors", self.context, self.session, shared, alive)

    def dealing(self, root: bytes, proof: bytes) -> bytes:
        """Return the bytes that a dealer signs: its leaves' root and the proof of their degree."""
        return framed(LABEL + b"dealing", self.context, self.session, root, proof)

    def complaint(self, dealer: int, holder: int, digest: bytes) -> bytes:
        """Return the bytes a holder signs when a share does not fit: the hash of its piece."""
        return framed(
            LABEL + b"complaint", self.context, self.session, _pair(dealer, holder), digest
        )

    def _way(self, sender: int, receiver: int) -> bytes:
        return self.session + self.context + _pair(sender, receiver)

    def _derived(self, secret: bytes, purpose: bytes) -> bytes:
        info = LABEL + self.context + purpose
        return hkdf.HKDF(hashes.SHA256(), length=32, salt=self.session, info=info).derive(secret)


def framed(*parts: bytes) -> bytes:
    """Return parts with their lengths before them: no two lists give the same bytes.

    >>> framed(b"a", b"bc").hex()
    '0000000161000000026263'
    """
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def commitment(seed: bytes) -> bytes:
    """Return the public half of a self seed.

    >>> len(commitment(bytes(32)))
    32
    """
    return sha256(LABEL + b"seed" + seed).digest()


def canonical(public: bytes) -> bool:
    """Return whether a public key is written in its one canonical form, below 2^255 − 19.

    X25519 ignores the highest bit and reduces the rest (RFC 7748, section 5), so a key has twins
    that look like another client's.

    >>> canonical(bytes(31) + bytes((128,)))
    False
    """
    return int.from_bytes(public, "little") < FIELD


def usable(public: bytes) -> bool:
    """Return whether a public key is one that can be agreed with: canonical, no point of low order.

    >>> usable(bytes(32))
    False
    """
    if not canonical(public):
        return False
    try:
        PROBE.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def _pair(first: int, second: int) -> bytes:
    return first.to_bytes(4, "big") + second.to_bytes(4, "big")
