"""The crash demo's own parts: the story's clock, the receiver's signatures, what is read from alerts; nightly, the whole of it on the embedded broker."""

from __future__ import annotations

import argparse
import base64
import json
import os
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from connectors.simulator.crash import ACCOUNTS, Crash, Timeline
from flows import crash_demo as demo
from flows.crash_demo import WALK, Receiver, StoryClock, Told, scenario_of, signature_problem, walked

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
BODY = b'{"test": 2432232314}'


# --- signatures -------------------------------------------------------------------------------------------------------------------


def test_the_published_signature_is_right() -> None:
    """The vector of the Standard Webhooks libraries."""
    assert signature_problem(KEY, HEADERS, BODY, 1614265330.0) == ""
    rotated = HEADERS | {"webhook-signature": "v1,AAAA " + HEADERS["webhook-signature"]}
    assert signature_problem(KEY, rotated, BODY, 1614265330.0) == ""


@pytest.mark.parametrize(
    ("change", "body", "now_s", "problem"),
    [
        ({}, BODY + b" ", 1614265330.0, "wrong signature"),
        ({"webhook-id": "msg_other"}, BODY, 1614265330.0, "wrong signature"),
        ({"webhook-timestamp": "1614265331"}, BODY, 1614265330.0, "wrong signature"),
        ({"webhook-signature": "v1,"}, BODY, 1614265330.0, "wrong signature"),
        ({"webhook-signature": "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, BODY, 1614265330.0, "wrong signature"),
        ({}, BODY, 1614265631.0, "time too far away"),
        ({}, BODY, 1614265029.0, "time too far away"),
        ({"webhook-timestamp": "now"}, BODY, 1614265330.0, "headers missing"),
        ({"webhook-signature": ""}, BODY, 1614265330.0, "headers missing"),
    ],
)
def test_every_other_is_refused(change: dict[str, str], body: bytes, now_s: float, problem: str) -> None:
    assert signature_problem(KEY, HEADERS | change, body, now_s) == problem


def test_the_edge_of_the_tolerance_is_within() -> None:
    for now_s in (1614265630.0, 1614265030.0):
        assert signature_problem(KEY, HEADERS, BODY, now_s) == ""


def test_the_receiver_answers_counts_and_knows_repeats() -> None:
    receiver = Receiver(SECRET)
    assert isinstance(receiver, ThreadingHTTPServer)
    assert receiver.server_address[0] == "127.0.0.1"
    now = 1614265330.0
    assert [receiver.take(HEADERS, BODY, now), receiver.take(HEADERS, BODY, now)] == [204, 204]
    assert receiver.take(HEADERS, b"{}", now) == 401
    assert (len(receiver.bodies), receiver.repeated, dict(receiver.refused)) == (1, 1, {"wrong signature": 1})
    serving = Thread(target=receiver.serve_forever, daemon=True)
    serving.start()
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{receiver.server_port}/canary", BODY, HEADERS)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)  # the published vector is of 2021
        assert refused.value.code == 401
    finally:
        receiver.shutdown()
        receiver.server_close()
    assert receiver.refused["time too far away"] == 1


# --- the story's clock ------------------------------------------------------------------------------------------------------------


def test_the_clock_stands_until_the_story_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, now = scenario_of(1), [1_000_000_000_000_000_000]
    monkeypatch.setattr(demo.time, "time_ns", lambda: now[0])
    line, story = Timeline(scenario, 60.0), Crash(scenario)
    one, other = StoryClock(scenario, 60.0, tmp_path / "began"), StoryClock(scenario, 60.0, tmp_path / "began")
    assert one() == other() == story.start_ns
    now[0] += 5_000_000_000
    assert one() == story.start_ns
    one.begin()
    assert one() == other() == story.start_ns
    seen = [story.start_ns]
    for _ in range(60):
        now[0] += 1_000_000_000
        assert one() == other()
        seen.append(one())
    assert seen == sorted(set(seen))
    assert abs(seen[30] - line.market_ns(30.0)) < 1_000_000
    assert abs(seen[60] - story.end_ns) < 1_000_000
    now[0] -= 3_600_000_000_000
    assert one() == story.start_ns, "a clock that was set back does not go before the beginning"


# --- what is read -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "good"),
    [
        (WALK, True),
        (("quiet", "early_warning", "quiet", "early_warning", "confirmed_stress", "panic", "forced_defense", "panic", "quiet"), True),
        (("quiet", "early_warning", "confirmed_stress", "forced_defense"), False),
        ((*WALK, "early_warning"), False),
        (("quiet", "confirmed_stress", "early_warning", "forced_defense", "quiet"), False),
        ((), False),
    ],
)
def test_walked(stages: tuple[str, ...], good: bool) -> None:
    assert walked(stages) is good


def test_what_cannot_be_read_is_counted() -> None:
    told = Told()
    told.take("canary.alert.v1", b"{}")
    told.take("canary.notice.v1", b"not JSON")
    told.take("dlq.canary", b"not JSON")
    told.take("dlq.regime", json.dumps({"payload": {"reason_code": "event_ts_future"}}).encode())
    assert told.unreadable == 3
    assert dict(told.dead) == {"dlq.regime: event_ts_future": 1}


@pytest.mark.parametrize("wrong", [{"seconds": 5.0}, {"seconds": 1e6}, {"seed": -1}])
def test_bad_arguments_end_with_2(wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(argparse.Namespace(**({"seconds": None, "seed": 1, "plain": True} | wrong))) == 2
    assert "must be from" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.skipif(os.environ.get("HEDGEROW_NIGHTLY") != "1", reason="long run: set HEDGEROW_NIGHTLY=1")
def test_the_whole_demo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Every flow, the deliverer and the receiver on the embedded broker. Slow enough that a busy machine does not make figures stale."""
    monkeypatch.setattr(demo, "Console", lambda **_: Console(highlight=False, width=200))
    code = demo.run(argparse.Namespace(seconds=120.0, seed=2, plain=True))
    said = capfd.readouterr().out
    assert code == 0, said
    assert "everything was reached" in said
    assert all(account in said for account in ACCOUNTS)
