"""What must hold of the hedger's lane whatever it is told: repeats, order, sums, restarts, HALTs, and what is in flight."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.operators.hedger_bench import BOOK, SECOND, uid
from tests.properties.hedge_stories import FILLS, ORDERS, SIZES, STORIES, Story, message, told

FEW = settings(max_examples=80, deadline=None)
Step = tuple[Any, ...]


def covers(story: Story) -> list[bytes]:
    return story.values["hedger.intent.cover"]


@FEW
@given(STORIES, st.data())
def test_records_said_again_anywhere_change_no_position_and_no_hedge(steps: list[Step], data: st.DataObject) -> None:
    once = told(steps)
    again = Story()
    for place, step in enumerate(steps):
        again.tell(place, step)
        if again.said and data.draw(st.booleans(), label="again"):
            which = data.draw(st.integers(0, len(again.said) - 1), label="which")
            again.feed(*again.said[which])
    again.tick(0.06)
    assert again.positions() == once.positions()
    assert covers(again) == covers(once)


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from(["SPOT", "OTHER", "PERP"]), SIZES, st.integers(1, 3), st.sampled_from(["ACC-1", "DESK"])), max_size=12
    ),
    st.data(),
)
def test_order_and_cut_of_fills_between_two_ticks_make_no_difference(fills: list[tuple[str, int, int, str]], data: st.DataObject) -> None:
    results = []
    for mixed in (False, True):
        story = Story()
        values = [
            story.fill(str(size * version), symbol, name=n, account=account, version=version)
            for n, (symbol, size, versions, account) in enumerate(fills)
            for version in range(1, versions + 1)
        ]
        if mixed:
            values = data.draw(st.permutations(values))
            cut = data.draw(st.integers(0, len(values)))
            story.feed(FILLS, *values[:cut])
            story.feed(FILLS, *values[cut:])
        else:
            story.feed(FILLS, *values)
        story.tick(0.06)
        results.append((story.positions(), [audit["exposure_version"] for audit in story.audits], covers(story)))
    assert results[0] == results[1]


@FEW
@given(STORIES)
def test_positions_are_the_sums_of_what_was_filled_and_every_record_is_accounted_for(steps: list[Step]) -> None:
    story = Story()
    for place, step in enumerate(steps):
        story.tell(place, step)
        assert story.lane.counters()["balance_mismatch"] == 0
        assert story.positions() == story.by_the_fills()
    assert story.lane.counters()["received"] == len(story.said)


@FEW
@given(STORIES, st.data())
def test_a_lane_restored_at_any_commit_goes_on_as_the_one_that_never_stopped(steps: list[Step], data: st.DataObject) -> None:
    calm, stopped = Story(), Story()
    for place, step in enumerate(steps):
        for story in (calm, stopped):
            story.tell(place, step)
        if step[0] == "tick" and data.draw(st.booleans(), label="restart"):
            assert stopped.state() == calm.state()
            stopped.restart()
            calm.lane.look_again()  # the one thing a restore does beside the state: nothing of the outside is taken for known
            assert stopped.state() == calm.state()
    for story in (calm, stopped):
        story.tick(0.06)
    assert stopped.values == calm.values
    assert stopped.state() == calm.state()


@FEW
@given(STORIES, st.data())
def test_nothing_is_sent_while_a_halt_holds(steps: list[Step], data: st.DataObject) -> None:
    story, halted, halts = Story(), False, 0
    for place, step in enumerate(steps):
        if data.draw(st.integers(0, 4), label="halt") == 0:
            halts += 1
            said = {"scope": data.draw(st.sampled_from(["ALL", "BOOK"])), "id": BOOK, "reason": "test", "issued_by": "guard"}
            if halted:
                approvals = [{"role": "risk", "approver": "a"}, {"role": "compliance", "approver": "b"}]
                for scope in ("ALL", "BOOK"):
                    story.say("system.resume.intent.v1", said | {"scope": scope, "approvals": approvals}, name=f"{place}{scope}")
            else:
                story.say("system.halt.intent.v1", said, name=place)
            halted = not halted
            story.now_ns += 1
        before = len(story.covers)
        story.tell(place, step)
        if step[0] == "tick" and data.draw(st.booleans(), label="restart"):
            story.restart()
        assert not (halted and len(story.covers) > before)
    story.tick(11.0)
    assert not halted or len(story.out["system.halt.ack.v1"]) == (halts + 1) // 2


@FEW
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("grow"), st.integers(1, 60)),
            st.tuples(st.just("fill"), st.integers(0, 3), st.sampled_from(["1", "0.5", "0.1"]), st.booleans()),
            st.tuples(st.just("late"), st.integers(0, 3)),
            st.tuples(st.sampled_from(["ack", "end", "unknown"]), st.integers(0, 3)),
            st.tuples(st.just("tick"), st.sampled_from([0.06, 0.6, 2.5, 31.0])),
        ),
        min_size=3,
        max_size=30,
    ).map(lambda steps: [("grow", 50), ("tick", 0.06), *steps, ("tick", 0.6), ("tick", 0.6)])
)
@example(
    [("grow", 50), ("tick", 0.06), ("fill", 0, "0.5", False), ("end", 0), ("tick", 0.6), ("tick", 0.6)]
)  # ended, its fill not told yet
@example([("grow", 50), ("tick", 0.06), ("tick", 2.5), ("tick", 31.0), ("tick", 0.6)])  # no answer at all
def test_what_is_filled_and_in_flight_never_exceeds_the_need(steps: list[Step]) -> None:
    story = Story(instruments=1)
    need = Decimal(0)
    venue: dict[str, dict[str, Any]] = {}
    """What the venue knows of each leg: size, what it has filled, whether it has ended, and fills not reported yet."""
    for place, step in enumerate(steps):
        legs = list(venue.values())
        leg = legs[-1 - step[1] % len(legs)] if legs and step[0] not in ("grow", "tick") else None
        if step[0] == "grow":
            need += step[1]
            # exposure in the instrument itself: its hedge is one to one
            story.put(FILLS, story.fill(str(step[1]), "PERP", name=place, order=uid(f"client:{place}")))
        elif step[0] == "tick":
            story.tick(step[1])
        elif leg is not None and step[0] == "fill" and not leg["ended"]:
            part = ((leg["size"] - leg["filled"]) * Decimal(step[2])).quantize(Decimal("0.001"))
            if part > 0:
                leg["filled"] += part
                leg["unsaid"].append(story.fill(format(-part, "f"), "PERP", name=place, order=leg["order_id"]))
        if leg is not None and (step[0] == "late" or (step[0] == "fill" and step[3])):
            for value in leg["unsaid"]:
                story.put(FILLS, value)
            leg["unsaid"] = []
        elif leg is not None and step[0] in ("ack", "end", "unknown"):
            leg["ended"] = leg["ended"] or step[0] == "end"
            how = "ACKED" if step[0] == "ack" else "UNKNOWN" if step[0] == "unknown" else "CANCELED" if leg["filled"] else "REJECTED"
            payload = {
                "hedge_id": leg["hedge_id"], "order_id": leg["order_id"], "book": BOOK, "instrument": "PERP", "status": how,
                "filled_size": format(leg["filled"], "f"), "reason": None, "event_ts_ns": story.now_ns,
            }  # fmt: skip
            story.put(ORDERS, message(ORDERS, payload, story.now_ns, place, "agent.order"))
        for cover in story.covers:
            for one in cover["legs"]:
                assert (one["instrument"], one["side"]) == ("PERP", "SELL")
                known = {"order_id": one["order_id"], "hedge_id": cover["hedge_id"], "size": Decimal(one["size"]), "filled": Decimal(0)}
                venue.setdefault(one["order_id"], known | {"ended": False, "unsaid": []})
        most = sum((one["filled"] if one["ended"] else one["size"] for one in venue.values()), Decimal(0))
        assert most <= need * Decimal("1.02") + Decimal("0.001")


def test_a_story_does_send_hedges() -> None:
    story = told(
        [("fill", "SPOT", 50, "ACC-1"), ("tick", 0.06), ("answer", 0, "all"), ("tick", 0.6), ("version", 0, "bust"), ("tick", 0.6)]
    )
    assert len(story.covers) == 2
    assert json.loads(covers(story)[1])["payload"]["reduce_only"]
    assert story.positions()["PERP", "hedge"] < 0
    assert story.now_ns > SECOND
