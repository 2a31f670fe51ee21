# SPDX-License-Identifier: Apache-2.0
"""The report renders whatever a run holds, escapes it, and shows the numbers of its history."""

import re
from html.parser import HTMLParser

import pytest

from muster.runs.run import Run
from muster.web import report

EVIL = '<script>alert("1")</script>'
VOID = {"meta", "path", "use", "image", "rect"}


class Reader(HTMLParser):
    """Checks that tags nest; collects the text of tables, and every id."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.ids, self.tags, self.words = [], [], [], set(), []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def read(run, **given):
    text = report.write(run, **given).read_text(encoding="utf-8")
    reader = Reader(text)
    assert len(set(reader.ids)) == len(reader.ids)
    assert "script" not in reader.tags
    outside = re.findall(r"(?:https?:)?//[\w.]+|\b(?:src|href)=\"(?!#|data:)[^\"]*", text)
    assert outside == []
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    return text, reader


def test_a_full_run(make, history):
    run = make(
        population={
            "clients": ["a", "b", "c"],
            "rows": [10, 20, 30],
            "skew": 0.25,
            "labels": [[5, 5], [20, 0], [15, 15]],
            "names": ["ill", "well"],
        }
    )
    text, _ = read(run)
    for heading in (
        "Result",
        "Metric by round",
        "How it differs between clients",
        "Who holds what",
        "Local training",
        "Bytes and time",
        "Plan and environment",
        "Rounds",
    ):
        assert f">{heading}</h2>" in text
    assert "3 clients, 60 rows; the smallest 10, the largest 30." in text
    assert "All 6 planned rounds were completed." in text
    assert text.count("<svg ") == text.count('role="img" aria-label="') == 10


def test_the_numbers_are_those_of_the_history(make):
    run = make()
    _, reader = read(run)
    last = run.history[-1]
    shown = dict(zip(reader.tables[0][0], reader.tables[0][1], strict=True))
    for name in ("accuracy", "loss"):
        assert shown[f"{name}, test rows"] == f"{last['metrics'][name]:.4f}"
        assert shown[f"{name}, mean of clients"] == f"{last['clients'][name]['mean']:.4f}"
        assert shown[f"{name}, worst client"] == f"{last['clients'][name]['worst']:.4f}"
    head, *lines = reader.tables[-1]
    assert len(lines) == len(run.history)
    for cells, record in zip(lines, run.history, strict=True):
        row = dict(zip(head, cells, strict=True))
        assert row["round"] == str(record["round"])
        assert row["accuracy"] == f"{record['metrics']['accuracy']:.4f}"
        assert row["drift"] == f"{record['train']['drift']:.4f}"
        assert row["sent up"] == "1.2 kB"


def test_baselines_are_found_beside_the_run(make, history):
    run = make()
    make("fedavg-1/baselines/centralized", history(top=0.95))
    make("fedavg-1/baselines/local", history(top=0.8))
    text, reader = read(run)
    assert "0.0500 below centralized and 0.1000 above local-only." in text
    assert [line[0] for line in reader.tables[0][1:]] == [
        "FedAvg (this run)",
        "centralized",
        "local-only",
    ]
    assert "stroke-dasharray" in text
    alone, _ = read(run, baselines={})
    assert "centralized" not in alone


def test_the_same_run_gives_the_same_bytes(make, tmp_path):
    run = make()
    first = report.write(run, tmp_path / "a.html").read_bytes()
    assert report.write(Run(run.path), tmp_path / "new" / "b.html").read_bytes() == first
    assert report.write(run) == run.path / "report.html"


@pytest.mark.parametrize("count", [2, 40])
def test_names_are_text_and_nothing_else(make, history, plan, count):
    clients = [EVIL, "$\\frac", "日本\x00\n" + "x" * 300, '& id="axes_1" <!-- -->'][:count]
    clients += [f"{EVIL} {n}" for n in range(count - len(clients))]
    plan["task"] = {"class": f"mine:{EVIL}", "note": EVIL}
    lines = history(clients=clients)
    lines[2]["failed"] = [{"client": EVIL, "stage": "train", "error": f"ValueError: {EVIL}"}]
    run = make(
        lines=None,
        history=lines,
        plan=plan,
        origin=EVIL,
        population={
            "clients": clients,
            "rows": [3] * count,
            "labels": [[1, 2]] * count,
            "names": [EVIL, "<b>"],
        },
    )
    text, reader = read(run, baselines={EVIL: run})
    assert "<script" not in text and "<b>" not in text
    assert EVIL in reader.tables[0][2][0]


def test_an_empty_run(make):
    text, _ = read(make(history=[], plan=None))
    assert "No round has been committed yet." in text
    assert "No client was invited yet." in text
    assert "<svg" not in text
    text, _ = read(make("planned", history=[]))
    assert "algorithm.server.rate" in text


def test_a_run_never_evaluated(make, history):
    lines = history()
    for record in lines:
        del record["metrics"], record["clients"], record["model"]
    text, _ = read(make(history=lines))
    assert "The model was never evaluated." in text
    assert "not evaluated on test rows" in text
    assert "not evaluated on the clients&#x27; own rows" in text


def test_clients_alone_were_evaluated(make, history):
    lines = history()
    for record in lines:
        del record["metrics"]
    text, reader = read(make(history=lines))
    assert "as the mean over clients" in text
    assert "accuracy, test rows" not in reader.tables[0][0]


def test_bare_records(make):
    bare = {"round": 1, "invited": [], "accepted": [], "abandoned": False}
    text, _ = read(make(history=[bare], plan=None))
    assert "No client was drawn in round 1." in text
    assert "No bytes or times were recorded." in text


def test_abandoned_rounds_and_their_reasons(make, history):
    lines = history()
    for place in (1, 3):
        del lines[place]["train"]
        lines[place] |= {"accepted": [], "abandoned": True, "bytes_up": 0}
        lines[place] |= {"late": [{"client": "a"}], "declined": [{"client": "b", "reason": "busy"}]}
        lines[place] |= {"failed": [{"client": "c", "stage": "train", "error": "NaN"}]}
    text, reader = read(make(history=lines))
    assert "Too few clients replied, and the model was left as it was, in 2 rounds (2, 4)." in text
    assert "2 failed, 2 declined, 2 late" in text
    (table,) = [t for t in reader.tables if t[0] == ["round", "client", "what", "why"]]
    assert table[1:4] == [
        ["2", "c", "failed", "train: NaN"],
        ["2", "b", "declined", "busy"],
        ["2", "a", "late", "–"],
    ]
    assert "2 (abandoned)" in [line[0] for line in reader.tables[-1]]


def test_a_run_that_diverged(make, history):
    lines = history()
    for record in lines[3:]:
        record["train"]["loss"] = record["metrics"]["accuracy"] = float("nan")
        record["clients"]["accuracy"] = dict.fromkeys(record["clients"]["accuracy"], float("inf"))
    text, reader = read(make(history=lines))
    assert "training has diverged" in text
    assert "not finite in 3 rounds (4, 5, 6)" in text
    assert reader.tables[0][1][1] == "not finite"


@pytest.mark.parametrize(
    ("rounds", "shown", "first"), [(200, 200, 1), (201, 101, 1), (450, 150, 3)]
)
def test_long_runs_show_every_kth_round(make, history, rounds, shown, first):
    _, reader = read(make(history=history(rounds)))
    numbers = [int(line[0]) for line in reader.tables[-1][1:]]
    assert (len(numbers), numbers[0], numbers[-1]) == (shown, first, rounds)


def test_large_numbers_and_one_round(make, history):
    lines = history(rounds=1, clients=[f"device {n}" for n in range(500)])
    lines[0] |= {"bytes_down": 5 * 10**12, "seconds": 90000.0}
    population = {
        "clients": lines[0]["invited"],
        "rows": list(range(1, 501)),
        "count": 100_000,
        "total": 123_456_789,
        "labels": None,
    }
    text, _ = read(make(history=lines, population=population))
    assert "100,000 clients, 123,456,789 rows; the smallest shown 1, the largest 500." in text
    assert "sent down 5 TB" in text and "25 h 00 min" in text


def test_replies_that_were_not_accepted_for_no_recorded_reason(make, history):
    lines = history()
    lines[0] |= {"accepted": [], "abandoned": True}
    text, _ = read(make(history=lines))
    assert "3 of 18 invitations led to no accepted reply." in text
