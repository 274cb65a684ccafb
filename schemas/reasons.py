"""Reason codes: why an input was rejected, held or remarked on. Defined once, here; docs, DLQ, audit and metrics use these.

Source: reference rules for reconciliation (decode, normalise, identity, chain, time and release stages).
"""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """The stage of the pipeline a reason belongs to."""

    decode = 0
    normalise = 1
    identity = 2
    chain = 3
    time = 4
    release = 5
    hold = 6
    audit = 7


class Reason(IntEnum):
    """A reason code. The number is used inside batches and state; the name is what leaves the system.

    Numbers are part of the persisted state: append, never renumber.
    """

    none = 0
    # decode
    garbled = 1
    json_malformed = 2
    encoding_invalid = 3
    version_unknown = 4
    field_missing = 5
    field_invalid = 6
    enum_unknown = 7
    timestamp_invalid = 8
    precision_exceeds_scale = 9
    oversize = 10
    # normalise
    venue_unknown = 20
    account_unknown = 21
    instrument_unknown = 22
    side_invalid = 23
    exec_id_missing = 24
    price_missing = 25
    price_out_of_contract = 26
    zero_qty_trade = 27
    book_unknown = 28
    target_not_finite = 29
    universe_missing = 30
    # identity
    order_unknown_expired = 40
    uncorrelated_expired = 41
    correlation_conflict = 42
    intent_conflict = 43
    sender_not_allowed = 44
    approvals_missing = 45
    hedge_unknown = 46
    # chain
    exec_conflict = 60
    chain_fork = 61
    chain_cycle = 62
    chain_dead = 63
    ref_unknown_expired = 64
    ref_not_trade = 65
    ref_cross_order = 66
    # time
    beyond_dedup_horizon = 80
    event_ts_future = 81
    ttl_expired = 82
    # release
    operator_rejected = 90
    internal_error = 91
    # why an input is pending
    order_unknown = 100
    uncorrelated = 101
    ref_unknown = 102
    held = 103
    # why an order is held
    overfill = 110
    cum_regression = 111
    side_mismatch = 112
    instrument_mismatch = 113
    account_mismatch = 114
    # audit only
    accepted = 130
    gap_opened = 131
    gap_closed = 132
    gap_expired = 133
    attribute_mismatch = 134
    avg_px_mismatch = 135
    fill_after_terminal = 136
    clock_skew = 137
    provisional_reversed = 138
    feed_switched = 139
    hold_released = 140
    external_adopted = 141
    confirm_late = 142
    confirm_expired = 143
    order_recorded = 144
    alias_recorded = 145
    order_held = 146
    rerouted = 147
    misrouted = 148
    pending_query = 149
    split_applied = 150
    # duplicate kinds
    duplicate_transport = 160
    duplicate_resend = 161
    duplicate_feed_overlap = 162
    duplicate_secondary = 163
    duplicate_superseded = 164
    duplicate_replay = 165
    duplicate_enriched = 166


_REPLAYABLE = {
    Reason.version_unknown, Reason.field_missing, Reason.field_invalid, Reason.enum_unknown, Reason.timestamp_invalid,
    Reason.precision_exceeds_scale, Reason.venue_unknown, Reason.account_unknown, Reason.instrument_unknown,
    Reason.side_invalid, Reason.exec_id_missing, Reason.price_missing, Reason.order_unknown_expired,
    Reason.uncorrelated_expired, Reason.correlation_conflict, Reason.intent_conflict, Reason.exec_conflict,
    Reason.chain_fork, Reason.chain_dead, Reason.ref_unknown_expired, Reason.ref_not_trade, Reason.ref_cross_order,
    Reason.beyond_dedup_horizon, Reason.event_ts_future, Reason.book_unknown, Reason.target_not_finite, Reason.universe_missing,
    Reason.approvals_missing, Reason.hedge_unknown,
}  # fmt: skip


def stage_of(reason: Reason) -> Stage:
    """Return the stage a reason belongs to."""
    bounds = ((20, Stage.decode), (40, Stage.normalise), (60, Stage.identity), (80, Stage.chain), (90, Stage.time),
              (100, Stage.release), (130, Stage.hold))  # fmt: skip
    for bound, stage in bounds:
        if reason < bound:
            return stage
    return Stage.audit


def replayable(reason: Reason) -> bool:
    """Return whether a dead letter with this reason can succeed when replayed after its cause is fixed."""
    return reason in _REPLAYABLE


class HedgeReason(IntEnum):
    """Why the hedger acted, or did not: the reason codes of its audit records, escalations and hedge events (hedging §8).

    Numbers are part of the persisted state: append, never renumber.
    """

    none = 0
    # acted
    hedge_sent = 1
    hedge_reduced_by_limit = 2
    limit_forced = 3
    unwind_by_policy = 4
    secondary_used = 5
    envelope_forced = 6
    # nothing to do
    dust = 20
    within_no_trade_band = 21
    within_ratio_buffer = 22
    inflight_covers = 23
    same_version = 24
    cooldown = 25
    no_exposure = 26
    # not allowed
    halted = 40
    reducing_only = 41
    dnt = 42
    limit_bound = 43
    headroom_zero = 44
    capital_cap = 45
    adv_cap = 46
    liquidity_tier = 47
    stress_bound = 48
    sender_not_allowed = 49
    held_by_desk = 50
    # not known
    stale_quote = 60
    stale_covariance = 61
    stale_allocation = 62
    stale_risk_state = 63
    warmup = 64
    weak_relation = 65
    unknown_inflight = 66
    policy_hash_mismatch = 67
    price_missing = 68
    zero_variance = 69
    universe_missing = 70
    policy_missing = 71
    allocation_missing = 72
    # not worth it
    not_profitable = 80
    predicate_min_var = 81
    predicate_spread = 82
    predicate_cost = 83
    below_min_notional = 84
    predicate_coverage = 85
    predicate_var_limit = 86
    solver_inexact = 87
    # outside
    channel_down = 100
    channel_queued = 101
    no_instrument = 102
    escalated = 103
    correlation_breakdown = 104
    overhedged = 105
    coverage_gap = 106
    liquidity_shortfall = 107
    completion_late = 108
    # of a hedge
    acked = 120
    refused = 121
    canceled = 122
    expired = 123
    filled = 124
    superseded = 125
    manual = 126
    late_fill = 127
    hedge_fill_busted = 128
    # what made the hedger look again
    fill = 140
    allocation = 141
    risk_state = 142
    policy = 143
    universe = 144
    bar = 145
    hedge_state = 146
    channel = 147
    resume = 148
    halt = 149
    timer = 150
    request = 151
    desk = 152
    restart = 153


_HEDGE_GROUPS = (
    (20, "acted"), (40, "nothing to do"), (60, "not allowed"), (80, "not known"), (100, "not worth it"), (120, "outside"),
    (140, "of a hedge"),
)  # fmt: skip


def hedge_group_of(reason: HedgeReason) -> str:
    """Return the group a hedger's reason belongs to."""
    for bound, name in _HEDGE_GROUPS:
        if reason < bound:
            return name
    return "trigger"
