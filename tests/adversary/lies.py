# SPDX-License-Identifier: Apache-2.0
"""Lies in a secure sum, in the place of one kind of a liar's messages."""

from dataclasses import replace

from tests.adversary.members import honest

from muster.secagg.messages import Compared, MaskedVector, OpenedShares, Quit, Shares

ANN = 0  # the place of an honest member in a roster


def at(kind, says):
    """Says `says(message, member)`, octets, in the place of a kind of message."""

    def lie(message, member):
        if not isinstance(message, kind):
            return honest(message)
        return [(data, {}, {}) for data in says(message, member)]

    return lie


class Lie:
    """Says in the place of one kind of message what `change` makes of it; and what it was."""

    def __init__(self, kind, change):
        self.kind, self.change, self.meant = kind, change, None

    def __call__(self, message, member):
        """Return what is sent in the place of a message."""
        if self.kind is OpenedShares:
            return self._accused(message, member)
        if isinstance(message, Compared) and self.kind is Compared:
            message = member.complaint(ANN)  # a false one; ann answers it
        if self.kind is Quit and isinstance(message, MaskedVector):
            message = Quit("STOPPED")
        if not isinstance(message, self.kind):
            return honest(message)
        self.meant = message
        return [(data, {}, {}) for data in self.change(message.to_bytes())]

    def _accused(self, message, member):
        """It deals ann what cannot be unsealed, ann complains, and it opens what it dealt."""
        if isinstance(message, Shares):
            sealed = bytes([message.sealed[0] ^ 1]) + message.sealed[1:]
            return honest(replace(message, sealed=sealed))
        if not isinstance(message, Quit):
            return honest(message)
        self.meant = member.opened(ANN)  # its own part takes what ann says for a lie of the server
        return [(data, {}, {}) for data in self.change(self.meant.to_bytes())]
