"""Webhooks against a real HTTP server on this machine: signatures, retries by the policy, one receipt for each page and target, targets on their own."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from connectors.webhook_targets import Target, TargetsError, decode_secret, load_targets
from connectors.webhooks import (
    BadSignature,
    Deliverer,
    Outcome,
    Sender,
    body_of,
    delivery_ids,
    pool_of,
    post,
    raw,
    signature_headers,
    verify,
)
from schemas.canary import DENIED, Delivery, Notice
from schemas.policy import load_policies
from tests.connectors.webhook_receiver import KEY, Answer, Receiver
from tests.operators.monitor_bench import DAY, MINUTE, SECOND, T0, Bench, signal

POLICIES = load_policies()
RULES = POLICIES["canary-default"].policy.monitor
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_KEY = bytes(32)


def notices(count: int = 1, profile: str = "canary-default") -> list[Notice]:
    """Return pages as the monitor makes them, of as many accounts."""
    bench = Bench(profile)
    for n in range(count):
        bench.say(account=f"U777{n}")
        bench.say(
            signal("margin_cushion_low", "act"), signal("single_name_delta_high", "watch", "rebalance", subject="AAPL"), account=f"U777{n}"
        )
    return [Notice.model_validate(page) for page in bench.pages]


# ---- signatures ----------------------------------------------------------------------------------------------------------------------


def test_the_published_vector() -> None:
    key = decode_secret(SECRET)
    assert isinstance(key, bytes)
    headers = signature_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert verify([key], headers, b'{"test": 2432232314}', 1614265330) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_what_we_sign_the_package_accepts() -> None:
    body = '{"a":"é"}'.encode()
    headers = signature_headers([KEY], "msg_1", int(time.time()), body)
    assert Webhook(KEY).verify(body, headers) == {"a": "é"}


@pytest.mark.parametrize(("sent", "valid"), [((KEY, OTHER_KEY), (KEY,)), ((KEY, OTHER_KEY), (OTHER_KEY,)), ((KEY,), (OTHER_KEY, KEY))])
def test_rotation_signs_with_every_key(sent: tuple[bytes, ...], valid: tuple[bytes, ...]) -> None:
    headers = signature_headers(sent, "msg_1", 1_000_000, b"{}")
    assert len(headers["webhook-signature"].split(" ")) == len(sent)
    assert verify(valid, headers, b"{}", 1_000_000) == "msg_1"


@pytest.mark.parametrize("off_s", [-300, 300])
def test_the_tolerance_is_inclusive(off_s: int) -> None:
    headers = signature_headers([KEY], "msg_1", 1_000_000, b"{}")
    verify([KEY], headers, b"{}", 1_000_000 + off_s)
    with pytest.raises(BadSignature, match="300 s"):
        verify([KEY], headers, b"{}", 1_000_000 + off_s + (1 if off_s > 0 else -1))


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        ({"webhook-id": "msg_2"}, b"{}"), ({"webhook-timestamp": "1000001"}, b"{}"), ({}, b"{ }"), ({}, b"\xff"),
        ({"webhook-signature": "v1,"}, b"{}"), ({"webhook-signature": "v1"}, b"{}"), ({"webhook-signature": "v2,abc é"}, b"{}"),
        ({"webhook-timestamp": "soon"}, b"{}"), ({"webhook-timestamp": "9" * 30}, b"{}"), ({"webhook-timestamp": "²"}, b"{}"),
    ],
)  # fmt: skip
def test_anything_changed_is_refused(changed: dict[str, str], body: bytes) -> None:
    headers = {k.upper(): v for k, v in (signature_headers([KEY], "msg_1", 1_000_000, b"{}") | changed).items()}
    with pytest.raises(BadSignature):
        verify([KEY], headers, body, 1_000_000)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_headers_are_refused(name: str) -> None:
    headers = signature_headers([KEY], "msg_1", 1_000_000, b"{}")
    del headers[name]
    with pytest.raises(BadSignature, match=name):
        verify([KEY], headers, b"{}", 1_000_000)


# ---- the body --------------------------------------------------------------------------------------------------------------------------

FIELDS = [
    "schema", "scope_id", "profile", "policy_version", "policy_fingerprint", "episode_id", "kind", "occurrence_seq", "notification_seq", "reason",
    "severity", "direction", "portfolio_posture", "lifecycle_stage", "planner_mode_hint", "planner_readiness", "signal_ids", "fingerprint",
    "lifecycle_fingerprint", "source_fingerprints", "source_status", "as_of", "first_seen", "last_seen", "text_code",
]  # fmt: skip


def test_the_body_is_what_the_contract_names_and_shows_no_account_and_no_symbol() -> None:
    (notice,) = notices()
    body = body_of(notice, T0, include_subjects=False)
    assert list(body) == ["type", "timestamp", "data"]
    assert body["type"] == "canary.alert.first_notification"
    assert list(body["data"]) == FIELDS
    assert body["data"]["schema"] == "canary-webhook-v1"
    assert body["data"]["as_of"].endswith("Z")
    text = raw(body).decode()
    assert "U7770" not in text
    assert "AAPL" not in text
    assert not set(re.findall(r'"([a-z_]+)":', text)) & set(DENIED)
    assert not re.search(r'":-?[0-9]+\.[0-9]', text)  # no observed value
    assert body_of(notice, T0, include_subjects=True)["data"] == body["data"] | {"subjects": ["AAPL"]}
    assert raw(json.loads(raw(body))) == raw(body)  # what comes back from Kafka is signed as it was


def test_ids_are_of_scope_occurrence_notification_and_target() -> None:
    one, two = notices(2)
    ids = {delivery_ids(notice, target) for notice in (one, two) for target in ("a", "b")}
    assert len(ids) == 4
    assert delivery_ids(one, "a") == delivery_ids(one.model_copy(update={"reason": "repeat"}), "a")
    assert delivery_ids(one, "a") != delivery_ids(one.model_copy(update={"notification_seq": 9}), "a")


# ---- what an answer means --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "accepted"), (204, "accepted"), (299, "accepted"), (301, "rejected"), (302, "rejected"), (307, "rejected"), (304, "rejected"),
     (400, "rejected"), (401, "rejected"), (404, "rejected"), (408, "retry"), (410, "rejected"), (425, "retry"), (429, "retry"), (499, "rejected"),
     (500, "retry"), (503, "retry"), (599, "retry"), (None, "retry"), (600, "rejected")],
)  # fmt: skip
def test_verdicts(status: int | None, verdict: str) -> None:
    assert Outcome(status).verdict == verdict


@pytest.fixture
def receivers() -> Iterator[Any]:
    made: list[Receiver] = []

    def make(answer: Answer = 204) -> Receiver:
        made.append(Receiver(answer))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


def target_of(receiver: Receiver, name: str = "pager", **more: Any) -> Target:
    return Target(name, receiver.url, (KEY,), **more)


def attempt(receiver: Receiver, timeout_s: float = 30.0) -> Outcome:
    target = target_of(receiver)
    headers = signature_headers(target.keys, "msg_1", int(time.time()), b"{}")
    return post(pool_of(target), "/hook", headers, b"{}", timeout_s)


@pytest.mark.parametrize("status", [204, 302, 410, 429, 500])
def test_an_answer_is_its_status_and_redirects_are_not_followed(receivers: Any, status: int) -> None:
    receiver = receivers(status)
    assert attempt(receiver) == Outcome(status)
    assert receiver.ids == ["msg_1"]
    assert receiver.bad == []


@pytest.mark.parametrize(("answer", "error"), [("stall", "timeout"), ("drip", "timeout"), ("close", "no_answer")])
def test_no_answer_in_time_is_a_failure_also_of_one_that_drips(receivers: Any, answer: str, error: str) -> None:
    assert attempt(receivers(answer), 1.0 if error == "timeout" else 30.0) == Outcome(None, error)


def test_nobody_there_is_a_failure() -> None:
    receiver = Receiver()
    receiver.close()
    assert attempt(receiver) == Outcome(None, "unreachable")


# ---- retries, receipts -----------------------------------------------------------------------------------------------------------------


class Desk:
    """A deliverer with a clock of its own and what it wrote: the newest of each delivery, as the topic keeps it."""

    def __init__(self, *targets: Target, now_ns: int = T0) -> None:
        self.targets = targets
        self.now_ns = now_ns
        self.topic: dict[str, Delivery] = {}
        self.history: list[tuple[str, int]] = []
        self.dead: list[Delivery] = []
        self.deliverer = Deliverer(targets, POLICIES)

    def take(self, *pages: Notice) -> None:
        for page in pages:
            self.deliverer.take(page, self.now_ns, self.now_ns)

    def start(self) -> list[Delivery]:
        started = self.deliverer.start(self.now_ns)
        self.write()
        for one in started:
            assert self.topic[one.delivery_id].state == "reserved"
        return started

    def finish(self, one: Delivery, status: int | None, error: str | None = None) -> None:
        self.deliverer.finished(one.delivery_id, Outcome(status, error), self.now_ns)
        self.write()

    def write(self) -> None:
        changed, dead = self.deliverer.take_changed()
        for one in changed:
            found = Delivery.model_validate_json(one.model_dump_json())
            self.topic[one.delivery_id] = found
            self.history.append((found.state, found.attempts))
        self.dead += dead

    def crash(self, *targets: Target) -> None:
        """Go on as a new process that knows only what was written."""
        self.deliverer = Deliverer(targets or self.targets, POLICIES)
        self.deliverer.restore(list(self.topic.values()), self.now_ns)
        self.write()


ANY = Target("pager", "https://example.com/", (KEY,))


def test_retries_follow_the_policy_and_the_fourth_failure_gives_up() -> None:
    assert RULES.retry_s == (60, 300, 900)
    desk = Desk(ANY)
    desk.take(*notices())
    waits = []
    while (due_ns := desk.deliverer.next_ns()) is not None:
        waits.append((due_ns - desk.now_ns) // SECOND)
        if waits[-1]:
            desk.now_ns = due_ns - 1
            assert desk.start() == []
        desk.now_ns = due_ns
        (one,) = desk.start()
        desk.finish(one, 503)
    assert waits == [0, 60, 300, 900]
    assert [state for state, _ in desk.history] == ["reserved", "retrying"] * 3 + ["reserved", "gave_up"]
    assert [(d.state, d.attempts, d.http_status, d.error) for d in desk.dead] == [("gave_up", 4, 503, "status")]
    assert desk.start() == []


@pytest.mark.parametrize("status", [400, 404, 302])
def test_rejected_pages_are_dead_letters_and_not_tried_again(status: int) -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    desk.finish(desk.start()[0], status)
    assert [(d.state, d.http_status, d.attempts) for d in desk.dead] == [("rejected", status, 1)]
    assert desk.deliverer.next_ns() is None
    assert desk.deliverer.health() == {"pager": "degraded"}


def test_a_page_is_accepted_once_however_often_it_is_read() -> None:
    desk = Desk(ANY)
    (page,) = notices()
    desk.take(page, page)
    (one,) = desk.start()
    desk.take(page)
    desk.finish(one, 204)
    desk.take(page)
    desk.crash()
    desk.take(page)
    assert desk.start() == []
    assert [state for state, _ in desk.history] == ["reserved", "accepted"]
    assert desk.dead == []


def test_what_pages_nobody_and_other_profiles_are_left_alone() -> None:
    desk = Desk(Target("guarded", "https://example.com/", (KEY,), profiles=("canary-guarded",)))
    (page,) = notices()
    desk.take(page, page.model_copy(update={"notify": False, "profile": "canary-guarded"}))
    assert desk.start() == []
    desk.take(page.model_copy(update={"profile": "canary-guarded"}))
    assert len(desk.start()) == 1


def test_a_crash_between_sending_and_recording_is_uncertain_and_goes_out_again_under_the_same_id() -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    (before,) = desk.start()
    desk.crash()
    assert desk.history[-1] == ("interrupted_uncertain", 1)
    (again,) = desk.start()
    assert (again.webhook_id, raw(again.body)) == (before.webhook_id, raw(before.body))
    desk.finish(again, 204)
    assert desk.history[-1] == ("accepted", 2)


def test_a_process_that_always_dies_while_sending_does_not_send_for_ever() -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    for _ in range(5):
        desk.start()
        desk.crash()
    desk.finish(desk.start()[0], 500)
    assert desk.dead[0].state == "gave_up"


def test_waiting_deliveries_go_on_after_a_restart_as_they_were() -> None:
    desk = Desk(Target("pager", "https://example.com/", (KEY,), in_flight=1))
    desk.take(*notices(3))
    (first,) = desk.start()
    desk.finish(first, 500)
    desk.crash()
    assert "interrupted_uncertain" not in [state for state, _ in desk.history]
    (second,) = desk.start()
    assert second.delivery_id != first.delivery_id
    desk.finish(second, 204)
    (third,) = desk.start()
    desk.finish(third, 204)
    desk.now_ns += 60 * SECOND
    (again,) = desk.start()
    assert (again.delivery_id, again.attempts) == (first.delivery_id, 1)


def test_410_disables_the_target_for_what_waits_and_what_comes_until_its_url_changes() -> None:
    desk = Desk(Target("pager", "https://example.com/", (KEY,), in_flight=1), Target("other", "https://example.com/", (KEY,), in_flight=9))
    pages = notices(4)
    desk.take(*pages[:2])
    first = next(one for one in desk.start() if one.target == "pager")
    desk.finish(first, 410)
    assert [d.state for d in desk.dead] == ["target_disabled"] * 2
    for _ in range(2):
        desk.take(pages[2])
        assert {one.target for one in desk.start()} <= {"other"}
        desk.crash()
        assert desk.deliverer.health()["pager"] == "unavailable"
    assert len(desk.dead) == 3
    desk.now_ns += 400 * DAY
    assert len(desk.deliverer.forget(desk.now_ns)) == 2  # the 410 itself is remembered
    desk.crash(Target("pager", "https://example.com/new", (KEY,)))
    desk.take(pages[3])
    assert [one.target for one in desk.start()] == ["pager"]


def test_what_disabled_a_target_is_never_forgotten() -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    desk.finish(desk.start()[0], 410)
    assert desk.deliverer.forget(desk.now_ns + 10_000 * DAY) == []


def test_a_disabled_target_can_be_enabled_again() -> None:
    desk = Desk(ANY)
    pages = notices(2)
    desk.take(pages[0])
    desk.finish(desk.start()[0], 410)
    desk.now_ns += MINUTE
    desk.crash(Target("pager", "https://example.com/", (KEY,), enabled_since_ns=desk.now_ns))
    desk.take(pages[1])
    assert len(desk.start()) == 1


def test_a_target_that_was_removed_takes_its_open_deliveries_to_the_dead_letters() -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    desk.write()
    desk.crash(Target("new", "https://example.com/", (KEY,)))
    assert [(d.state, d.error) for d in desk.dead] == [("gave_up", "target_removed")]


def test_health_and_overflow() -> None:
    desk = Desk(Target("pager", "https://example.com/", (KEY,), in_flight=1, max_waiting=2))
    pages = notices(6)
    assert desk.deliverer.health() == {"pager": "healthy"}
    desk.take(pages[0])
    (one,) = desk.start()
    desk.take(*pages[1:4])
    desk.write()
    assert desk.deliverer.health() == {"pager": "overflow"}
    assert [(d.state, d.error) for d in desk.dead] == [("gave_up", "overflow")]
    desk.finish(one, 500)
    assert desk.deliverer.health() == {"pager": "overflow"}
    for _ in range(2):
        (one,) = desk.start()
        desk.finish(one, 500)
    desk.now_ns += 60 * SECOND
    (one,) = desk.start()
    desk.finish(one, 204)
    assert desk.deliverer.health() == {"pager": "overflow"}
    (one,) = desk.start()
    desk.finish(one, 500)
    (one,) = desk.start()
    assert desk.deliverer.health() == {"pager": "degraded"}
    desk.finish(one, 500)
    for _ in range(2):
        desk.now_ns += 900 * SECOND
        (one,) = desk.start()
        desk.finish(one, 500)
    assert desk.deliverer.health() == {"pager": "unavailable"}
    for _ in range(2):
        desk.now_ns += 900 * SECOND
        (one,) = desk.start()
        desk.finish(one, 204)
    assert desk.deliverer.health() == {"pager": "healthy"}


def test_receipts_are_kept_for_the_days_of_the_policy() -> None:
    desk = Desk(ANY)
    desk.take(*notices())
    (one,) = desk.start()
    desk.finish(one, 204)
    desk.now_ns += RULES.keep_days * DAY - 1
    assert desk.deliverer.forget(desk.now_ns) == []
    assert desk.deliverer.forget(desk.now_ns + 1) == [one.delivery_id]


def test_pages_of_a_profile_without_a_policy_are_delivered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(ANY)
    desk.take(notices()[0].model_copy(update={"profile": "gone"}))
    desk.finish(desk.start()[0], 503)
    assert desk.history[-1] == ("retrying", 1)
    assert "no policy of profile gone" in caplog.text


# ---- with HTTP -------------------------------------------------------------------------------------------------------------------------


def run(desk: Desk, sender: Sender, timeout_s: float, until: Any) -> None:
    """Send and record, on the desk's clock, until it is so."""
    limit = 3_000
    while not until():
        limit -= 1
        assert limit, "nothing more happens"
        for one in desk.start():
            sender.submit(one, timeout_s)
        try:
            delivery_id, outcome = sender.outcomes.get(timeout=0.02)
        except Exception:
            continue
        desk.finish(desk.topic[delivery_id], outcome.status, outcome.error)


def test_a_target_that_stalls_holds_up_nobody_else(receivers: Any) -> None:
    slow, quick = receivers("stall"), receivers(204)
    desk = Desk(target_of(slow, "slow", in_flight=2), target_of(quick, "quick", in_flight=2))
    sender = Sender(desk.targets)
    desk.take(*notices(8))
    run(desk, sender, 30.0, lambda: desk.deliverer.counts["accepted"] == 8)
    assert len(quick.ids) == 8
    assert len(slow.ids) <= 2  # so many at once, no more
    assert threading.active_count() < 40
    slow.answer = 204
    slow.released.set()
    run(desk, sender, 30.0, lambda: len(slow.ids) == 8 and not desk.deliverer.sending)
    sender.close()


def test_failing_twice_then_accepted_is_one_page_under_one_id_with_fresh_signatures(receivers: Any) -> None:
    receiver = receivers(lambda before: (500, 429, 204)[before])
    desk = Desk(target_of(receiver))
    receiver.clock = lambda: desk.now_ns / SECOND
    sender = Sender(desk.targets, lambda: desk.now_ns)
    desk.take(*notices())
    run(desk, sender, 30.0, lambda: desk.deliverer.counts["accepted"] == 1 or _later(desk))
    assert len(receiver.ids) == 3
    assert len(set(receiver.ids)) == 1
    assert len({raw(body) for _, body, _ in receiver.got}) == 1
    stamps = [int(headers["webhook-timestamp"]) - T0 // SECOND for _, _, headers in receiver.got]
    assert stamps == [0, 60, 360]
    assert len({headers["webhook-signature"] for _, _, headers in receiver.got}) == 3
    assert receiver.bad == []
    assert desk.dead == []
    sender.close()


def _later(desk: Desk) -> bool:
    """Let the desk's clock jump to what is due next, once nothing is on its way."""
    due_ns = desk.deliverer.next_ns()
    if due_ns is not None and not desk.deliverer.sending:
        desk.now_ns = max(desk.now_ns, due_ns)
    return False


def test_gone_and_moved(receivers: Any) -> None:
    gone, moved = receivers(410), receivers(302)
    desk = Desk(target_of(gone, "gone"), target_of(moved, "moved"))
    sender = Sender(desk.targets)
    desk.take(*notices())
    run(desk, sender, 30.0, lambda: len(desk.dead) == 2)
    assert {(d.target, d.state, d.http_status) for d in desk.dead} == {("gone", "target_disabled", 410), ("moved", "rejected", 302)}
    assert gone.bad == moved.bad == []
    sender.close()


def test_an_unexpected_failure_is_an_attempt_that_failed(receivers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(target_of(receivers(), in_flight=1))
    with monkeypatch.context() as patched:
        patched.setattr("connectors.webhooks.post", lambda *args: 1 // 0)
        sender = Sender(desk.targets)
        desk.take(*notices())
        run(desk, sender, 30.0, lambda: desk.history[-1:] == [("retrying", 1)])
    run(desk, sender, 30.0, lambda: desk.deliverer.counts["accepted"] == 1 or _later(desk))
    sender.close()


def test_rotation_reaches_a_receiver_with_either_key(receivers: Any) -> None:
    receiver = receivers()
    receiver.keys = (OTHER_KEY,)
    desk = Desk(Target("pager", receiver.url, (KEY, OTHER_KEY), include_subjects=True))
    sender = Sender(desk.targets)
    desk.take(*notices())
    run(desk, sender, 30.0, lambda: desk.deliverer.counts["accepted"] == 1)
    assert receiver.got[0][1]["data"]["subjects"] == ["AAPL"]
    sender.close()


# ---- the file --------------------------------------------------------------------------------------------------------------------------


def test_targets_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(KEY).decode() + "\n")
    file = tmp_path / "targets.toml"
    file.write_text(
        f'[[target]]\nname = "pager"\nurl = "https://example.com/x"\nsecrets = ["env:PAGER", "file:{secret}"]\nenabled_since = 2026-01-05T12:00:00Z\n'
        '[[target]]\nname = "local"\nurl = "http://127.0.0.1:8000/"\nsecrets = ["env:PAGER"]\nprofiles = ["canary-guarded"]\ninclude_subjects = true\n'
    )
    pager, local = load_targets(file, {"PAGER": SECRET})
    assert pager.keys == (decode_secret(SECRET), KEY)
    assert pager.enabled_since_ns == T0
    assert (local.profiles, local.include_subjects) == (("canary-guarded",), True)
    assert "whsec" not in repr(pager)
    assert "example" not in repr(pager)


def test_every_problem_of_a_file_is_named_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(
        '[[target]]\nname = "a"\nurl = "http://example.com/"\nsecrets = ["env:MISSING", "env:SHORT"]\n'
        '[[target]]\nname = "a"\nurl = "https://me:pw@example.com/#x"\nsecrets = ["whsec_abc", "env:PLAIN"]\nca_file = "/nowhere"\n'
        "enabled_since = 2026-01-05T12:00:00\n"
    )
    with pytest.raises(TargetsError) as error:
        load_targets(file, {"SHORT": "whsec_c2hvcnQ=", "PLAIN": "topsecret"})
    told = str(error.value)
    for part in (
        "must be https",
        "not set",
        "24 to 64 bytes",
        "user or a password",
        "fragment",
        "env:NAME",
        "begin with whsec_",
        "ca_file",
        "offset",
        "2 times",
    ):
        assert part in told
    assert "topsecret" not in told
    assert "c2hvcnQ" not in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "target"),
        ("[[target]]\nname = 1\n", "target.0.name"),
        ("x", "is not TOML"),
        ('[[target]]\nname = "A B"\nurl = ""\nsecrets = []\nz = 1\n', "z"),
    ],
)
def test_files_that_are_no_list_of_targets(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "targets.toml"
    file.write_text(text)
    with pytest.raises(TargetsError, match=told):
        load_targets(file, {})
    with pytest.raises(TargetsError, match="cannot be read"):
        load_targets(tmp_path / "none.toml", {})
