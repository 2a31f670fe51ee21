# SPDX-License-Identifier: Apache-2.0
"""Transcripts of the secure sums that a site took part in, to show: signed, numbered, chained.

record.py    one session as a frozen record, and its one form in JSON
seal.py      a document in canonical JSON that a member's key has signed
store.py     the transcripts of a study in a folder: bounded, each file replaced as a whole
examine.py   what an auditor finds in such a folder: altered, missing, or whole
"""

from muster.security.transcript.examine import Examination, examine
from muster.security.transcript.record import Transcript, described
from muster.security.transcript.store import TranscriptStore

__all__ = ["Examination", "Transcript", "TranscriptStore", "described", "examine"]
