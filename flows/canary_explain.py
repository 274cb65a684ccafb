"""`hedgerow canary explain`: one snapshot under one policy, from the figures to the keys, with the level each was held against.

May not judge anything: outcomes are read from the market view (operators/clusters.py) and the result (operators/canary.py), levels from the policy.
What is said of a rule is said in its words and figures; whether it fired is looked up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.canary_show import BAND_STYLES, QUIET, SEVERITY_STYLES, number, percent, risk_state
from operators.clusters import MEMBERS, MarketView, RegimeInput, class_of, features_of, may_rank, measured
from schemas.canary import CanaryResult, Signal
from schemas.policy import CLUSTERS, ROWS, Confirmation, Policy, RiskPolicy
from schemas.times import rfc3339

_SEVERITIES = tuple(SEVERITY_STYLES)
_WIDE = 110


def explain(result: CanaryResult, market: MarketView, regime: RegimeInput, policy: RiskPolicy, now_ns: int, width: int) -> RenderableType:
    """Return the explanation of a result: sections from the rows of the dashboard to the keys. width: columns there are."""
    p = policy.policy
    parts: list[tuple[str, RenderableType]] = [
        ("rows of the dashboard", _rows(market, regime, policy, now_ns, width)),
        ("clusters, before and after downgrades", _clusters(market, policy)),
        ("composite", _composite(market, regime)),
        ("tape rules", _tape(market, p)),
        ("market stage", _market_stage(market, p)),
        ("account", _account(result, p)),
        ("signals", _signals(result, width)),
        ("rows of the card", _evidence(result)),
        ("aggregation", _aggregation(result, market, p)),
        ("sources", _sources(result)),
        ("keys", _keys(result, width)),
    ]
    if p.confirmation is not None:
        parts.insert(4, ("score", _score(market, p.confirmation)))
    shown: list[RenderableType] = []
    for title, content in parts:
        shown += [Text(""), Text(title, style="bold"), content]
    return Group(*shown[1:])


def _table(*columns: str, right: Iterable[int] = (), whole: Iterable[int] = ()) -> Table:
    """Return an empty table. right: columns of figures; whole: columns whose words are never cut, beside the first."""
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for n, column in enumerate(table.columns):
        column.overflow = "fold"
        column.no_wrap = n == 0 or n in whole
        if n in right:
            column.justify = "right"
    return table


def _pairs(*rows: tuple[str, RenderableType]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _band(band: str | None) -> Text:
    return Text(band or "unranked", style=BAND_STYLES.get(band or "", QUIET))


def _severity(name: str) -> Text:
    return Text(name, style=SEVERITY_STYLES.get(name, ""))


def _yes(value: bool) -> Text:
    return Text("yes", style="bold") if value else Text("no", style=QUIET)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


# ---- market ------------------------------------------------------------------------------------------------------------------------


def _value(name: str, f: Mapping[str, float | None]) -> str:
    """Return what a row's band is judged by."""
    text = {
        "vix_term_structure": f"VIX/VIX3M {number(f['vix_term'])}",
        "vol_of_vol": f"VVIX {number(f['vvix'])}",
        "hyg_spy_divergence": f"HYG {_from(f['hyg_below_mean_pct'])} its mean, SPY {_from(f['spy_below_high_pct'])} its high",
        "credit_spreads": f"HY OAS {number(f['hy_oas_pct'])} %, change {number(f['hy_oas_change_pts'], signed=True)} points",
        "funding_stress": f"spread {number(f['funding_bps'])} bp",
        "usd_jpy": f"yen move {number(f['yen_move_pct'], signed=True)} %",
        "gamma_zero": f"gap {number(f['gamma_gap_pct'], signed=True)} %",
        "breadth": f"{number(f['breadth_pct'])} % above their mean",
    }
    return text[name]


def _from(below_pct: float | None) -> str:
    """Return how far something is below or above something."""
    if below_pct is None:
        return "not known against"
    return f"{number(abs(below_pct))} % {'below' if below_pct > 0 else 'above'}" if below_pct else "at"


def _edges(name: str, p: Policy) -> str:
    b = p.bands
    text = {
        "vix_term_structure": f"yellow ≥ {b.vix_term_yellow:g}, red ≥ {b.vix_term_red:g}",
        "vol_of_vol": f"yellow ≥ {b.vvix_yellow:g}, red ≥ {b.vvix_red:g}",
        "hyg_spy_divergence": f"yellow below its mean, red also with SPY ≥ {b.spy_near_high_ratio:g} × high",
        "credit_spreads": (
            f"yellow ≥ {b.hy_oas_yellow_pct:g} or change ≥ {b.hy_oas_change_yellow_pts:g}, "
            f"red ≥ {b.hy_oas_red_pct:g} or change ≥ {b.hy_oas_change_red_pts:g}"
        ),
        "funding_stress": f"yellow ≥ {b.funding_yellow_bps:g}, red ≥ {b.funding_red_bps:g}",
        "usd_jpy": f"yellow ≥ {b.usd_jpy_yellow_pct:g}, red ≥ {b.usd_jpy_red_pct:g}",
        "gamma_zero": f"yellow within ±{b.gamma_gap_pct:g}, red below",
        "breadth": f"yellow ≤ {b.breadth_green_pct:g}, red < {b.breadth_red_pct:g}",
    }
    return text[name]


def _rows(market: MarketView, regime: RegimeInput, policy: RiskPolicy, now_ns: int, width: int) -> Table:
    """Return the rows; on a narrow terminal value, edges and notes stand below each other."""
    p = policy.policy
    features = features_of(regime)
    wide = width >= _WIDE
    table = _table("row", "band", "status", *(["value", "edges", "notes"] if wide else ["value, edges, notes"]), whole=(1, 2))
    for name in ROWS:
        row = regime.rows[name]
        notes = [f"missing: {', '.join(row.fields_missing)}"] if row.fields_missing else []
        if row.band_held:
            notes.append("band held, nothing measured")
        if p.switches.row_gates:
            if name in market.eligibility:
                notes.append(f"may confirm: {market.eligibility[name]}")
            notes.append(f"data {class_of(name, row, policy, now_ns)}")
            if row.sessions is not None:
                notes.append(f"session {row.sessions}")
            if row.depth is not None:
                notes.append(f"depth {number(row.depth)}")
        given = measured(name, row) and may_rank(name, row)
        told = [Text(_value(name, features)), Text(_edges(name, p), style=QUIET)] if given else [Text("–"), Text("")]
        told.append(Text("; ".join(notes)))
        cells = told if wide else [Group(*(text for text in told if text.plain))]
        table.add_row(name, _band(market.bands[name]), row.status or "–", *cells)
    return table


def _clusters(market: MarketView, policy: RiskPolicy) -> Table:
    d = policy.policy.downgrades
    gated = policy.policy.switches.row_gates
    another = "no other cluster with a red that may confirm" if gated else "no other cluster red"
    why = {
        "credit": f"HYG/SPY red alone: HY OAS not red, {another}",
        "fx": f"USD/JPY red alone: {another}",
        "vol": (
            f"VVIX red alone: {another}, VIX/VIX3M not red, VVIX < {d.vvix_red_alone:g} or unknown, VIX day < {d.vix_day_pct:+g} or unknown, "
            f"SPY day > {d.spy_day_pct:+g} or unknown"
        ),
    }
    quality = {
        "not configured": market.not_configured, "no band": market.ambiguous, "a member without data": market.partial,
        "computing": market.computing, "stale": market.stale, "degraded": market.degraded, "data overdue": market.defects,
        "data late": market.impaired,
    }  # fmt: skip
    table = _table("cluster", "members", "raw", "counts as", "confirms", "why", whole=(2, 3, 4))
    for name in CLUSTERS:
        raw, served = market.raw[name], market.served[name]
        notes = []
        if raw == "red" and served != "red":
            notes.append(f"downgraded, unconfirmed: {why.get(name, another)}")
        elif name in market.provisional:
            reasons = sorted({market.eligibility[row] for row in MEMBERS[name] if market.eligibility.get(row, "eligible") != "eligible"})
            notes.append(f"provisional: {_names(reasons)}")
        notes += [text for text, names in quality.items() if name in names]
        members = ", ".join(f"{row} {market.bands[row] or 'unranked'}" for row in MEMBERS[name])
        table.add_row(name, members, _band(raw), _band(served), "yes" if name in market.confirming else "", "; ".join(notes))
    return table


def _composite(market: MarketView, regime: RegimeInput) -> Table:
    c = market.composite
    rows: list[tuple[str, RenderableType]] = [("verdict", Text(str(c["verdict"]), style="bold"))]
    for label, prefix in (("rows", ""), ("clusters", "cluster_")):
        counts = ", ".join(f"{c[f'{prefix}{name}_count']} {name}" for name in ("green", "yellow", "red", "ranked", "unranked"))
        rows.append((label, counts))
    told = regime.composite
    if told is not None:
        different = [f"{name} {told[name]} (here {c[name]})" for name in c if name in told and told[name] != c[name]]
        rows.append(("as delivered", f"differs: {', '.join(different)}; the rows count" if different else "the same"))
    return _pairs(*rows)


def _tape(market: MarketView, p: Policy) -> Table:
    red = "confirming red" if p.switches.row_gates else "red cluster"
    score = p.confirmation
    head = f"SPY {percent(market.spy)}, VIX {percent(market.vix)}, {_count(len(market.confirming), red)}, breadth {market.served['breadth'] or 'unranked'}"
    if market.closed:
        head += ", market closed" + (": the tape is off" if p.switches.closed_date_tape_off else "")
    drop, hard, spike, hard_spike = (f"{x:+g}" for x in (p.spy_drop_pct, p.spy_hard_drop_pct, p.vix_spike_pct, p.vix_hard_spike_pct))
    rules = [
        ("fast carry", market.fast_carry, f"USD/JPY red, and SPY ≤ {drop} or VIX ≥ {spike} or breadth yellow or red"),
        (
            "confirmed tape", market.confirmed_tape,
            f"SPY ≤ {hard} with VIX ≥ {spike} or a {red}; VIX ≥ {hard_spike} with SPY ≤ {drop} or a {red}; both ≤ {drop} and ≥ {spike} with a "
            f"{red}; or fast carry",
        ),
        (
            "stressed", market.stressed,
            f"≥ {p.rules.stressed_reds} {red}s" + (" and governed severity ≥ act" if p.switches.severity_governor else "") + ", or confirmed tape",
        ),
        (
            "sell-off confirmed", market.selloff_by_market,
            f"SPY ≤ {drop} and VIX ≥ {spike}, or a {red}"
            + (", or the account's own cushion (below)" if p.switches.margin_confirms_market else "; own margin never confirms"),
        ),
        ("VIX spike confirmed", market.spike_confirmed, f"SPY ≤ {drop} or a {red}"),
    ]  # fmt: skip
    if score is not None:
        rules = [(name, fired, f"score ≥ {score.act:g} takes the place of counts" if n > 1 else text + f", with score ≥ {score.act:g}")
                 for n, (name, fired, text) in enumerate(rules)]  # fmt: skip
    table = _table("rule", "holds", "when", whole=(1,))
    table.title, table.title_justify, table.title_style = Text(head), "left", ""
    for name, fired, text in rules:
        table.add_row(name, _yes(fired), text)
    return table


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _score(market: MarketView, c: Confirmation) -> Table:
    table = _table("term", "feature", "value", "levels", "points", "of", right=(2, 4, 5), whole=(1, 2, 4, 5))
    terms = {term.id: term for term in c.terms}
    for name, feature, value, points in market.score_terms:
        term = terms[name]
        sign = "≥" if term.side == "above" else "≤"
        levels = ", ".join(f"{sign} {level:g}: {given:g}" for level, given in zip(term.levels, term.points, strict=True))
        table.add_row(
            name, feature, number(value), levels, Text(f"{points:g}", style="bold" if points > 0 else QUIET), f"{term.points[-1]:g}"
        )
    table.add_section()
    table.add_row("score", "", "", f"watch {c.watch:g}, act {c.act:g}, urgent {c.urgent:g}", number(market.score), "")
    return table


def _market_stage(market: MarketView, p: Policy) -> Table:
    s, life = p.stages, market.lifecycle
    red = "confirming red" if p.switches.row_gates else "red"
    yellow = "yellow or red" if p.switches.count_at_least_yellow else "yellow"
    c = p.confirmation
    few = f"fewer than {s.min_ranked} ranked clusters"
    calm = {
        "opportunity": f"no red, at most {s.opportunity_max_yellows} yellow, SPY ≥ {s.opportunity_spy_pct:+g} and VIX ≤ {s.opportunity_vix_pct:+g}",
        "stabilization": (
            f"no red, 1 to {s.stabilization_max_yellows} yellow, and SPY ≥ {s.stabilization_spy_pct:+g} or VIX ≤ {s.stabilization_vix_pct:+g}"
        ),
        "quiet": "otherwise",
    }
    if c is not None:
        stages = {
            "data_quality": few, "panic": f"score ≥ {c.urgent:g}", "confirmed_stress": f"score ≥ {c.act:g}",
            "early_warning": f"score ≥ {c.watch:g}", **calm,
        }  # fmt: skip
    else:
        stages = {
            "data_quality": few + (", or inputs past their time" if p.switches.freshness_classes else ""),
            "panic": f"≥ {s.panic_reds} {red}s; SPY ≤ {s.panic_red_spy_pct:+g} with a {red}; or SPY ≤ {s.panic_spy_pct:+g}",
            "confirmed_stress": (
                f"≥ {s.confirmed_reds} {red}s; a {red} with SPY ≤ {s.confirmed_red_spy_pct:+g} or VIX ≥ {s.confirmed_red_vix_pct:+g}; "
                f"or SPY ≤ {s.confirmed_yellow_spy_pct:+g} with ≥ {s.confirmed_yellows} {yellow}"
            ),
            "early_warning": (
                f"≥ {s.early_reds} {red}; ≥ {s.early_yellows} {yellow}; any unconfirmed red; SPY ≤ {s.early_spy_pct:+g}; "
                f"or VIX ≥ {s.early_vix_pct:+g}"
            ),
            **calm,
        }  # fmt: skip
    table = _table("", "stage", "first that holds", whole=(1,))
    known = (
        f"{_count(len(market.confirming), red)}, {market.yellow} yellow, {market.ranked} ranked, unconfirmed: {_names(market.unconfirmed)}"
    )
    table.title, table.title_justify, table.title_style = Text(known), "left", ""
    for name, text in stages.items():
        chosen = name == life["stage"]
        table.add_row("→" if chosen else "", Text(name, style="bold" if chosen else QUIET), Text(text, style="" if chosen else QUIET))
    rows: list[tuple[str, RenderableType]] = [
        ("outcome", Text(f"{life['stage']} · {life['severity']} · {life['readiness']} · {life['timing']} · {life['confidence']}")),
        ("confirmed by", _names(life["confirmed_by"])),
    ]
    for governor in life["governors"]:
        rows.append(("capped", f"{governor['from']} → {governor['to']}: {governor['reason']} ({_names(governor['clusters'])})"))
    for label, key in (("suppressed", "suppressed"), ("rejected by", "rejected_by")):
        if life[key]:
            rows.append((label, _names(life[key])))
    outer = Table.grid()
    outer.add_row(table)
    outer.add_row(_pairs(*rows))
    return outer


# ---- account -----------------------------------------------------------------------------------------------------------------------


def _account(result: CanaryResult, p: Policy) -> Table:
    f = result.portfolio
    margin = f"watch < {p.margin_watch_pct:g}, act < {p.margin_act_pct:g}, urgent < {p.margin_urgent_pct:g}"

    def exposure(name: str) -> str:
        calm, act, urgent = (getattr(p, f"{name}_{level}_pct") for level in ("watch", "stress_act", "stress_urgent"))
        return f"watch ≥ {calm:g}; stressed: act ≥ {act:g}, urgent ≥ {urgent:g}"

    rows = [
        ("net liquidation", f"{number(f.net_liquidation)} {f.base_currency}".strip(), ""),
        ("cushion", percent(f.cushion_pct, signed=False), margin),
        ("look-ahead cushion", percent(f.look_ahead_cushion_pct, signed=False), margin),
        ("gross exposure", percent(f.gross_exposure_pct_nlv, signed=False), exposure("gross_exposure")),
        ("net delta", percent(f.net_delta_pct_nlv, signed=False), exposure("net_delta")),
        ("gross delta", percent(f.gross_delta_pct_nlv, signed=False), exposure("gross_delta")),
        (
            "largest exposure", f"{f.largest_exposure or ''} {percent(f.largest_exposure_pct_nlv)}".strip(),
            f"watch ≥ {p.single_name_exposure_watch_pct:g}, stressed act",
        ),
        (
            "largest delta", f"{f.largest_delta_exposure or ''} {percent(f.largest_delta_pct_nlv)}".strip(),
            f"watch ≥ {p.single_name_delta_watch_pct:g}, stressed act",
        ),
        ("daily P&L", percent(f.daily_pnl_pct_nlv), f"watch at ±{p.daily_pnl_watch_pct:g}, act at a loss of {p.daily_pnl_act_pct:g}"),
        ("option greeks", f.option_greeks or "–", f"degraded < {p.option_greeks_min_coverage_pct:g} % of legs"),
    ]  # fmt: skip
    table = _table("figure, of net liquidation", "value", "levels, %", right=(1,), whole=(1,))
    for row in rows:
        table.add_row(*row)
    return table


def _signals(result: CanaryResult, width: int) -> RenderableType:
    """Return the signals, one line each; on a narrow terminal what is said beside the figures goes on a line of its own."""
    if not result.signals:
        return Text("none fired", style=QUIET)
    wide = width >= _WIDE
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    if wide:
        grid.add_column(overflow="fold", style=QUIET)
    for s in result.signals:
        figures = f"observed {number(s.observed)}" + ("" if s.threshold is None else f", level {number(s.threshold)}")
        if s.target is not None:
            figures += f", target {number(s.target)}"
        more = [f"confidence {s.confidence}"]
        if s.blocked_by:
            more.append(f"blocked by {', '.join(s.blocked_by)}")
        if s.confidence_impact:
            more.append(s.confidence_impact)
        name, state = Text(_signal(s)), Text(f"{s.direction} / {s.severity}", style=SEVERITY_STYLES[s.severity])
        if wide:
            grid.add_row(name, state, figures, "; ".join(more))
        else:
            grid.add_row(name, state, Group(Text(figures), Text("; ".join(more), style=QUIET)))
    return grid


def _signal(s: Signal) -> str:
    return s.id + (f" {s.subject}" if s.subject else "")


def _evidence(result: CanaryResult) -> Table:
    table = _table("row", "direction", "severity", "evidence", whole=(1, 2))
    for row in result.rows:
        table.add_row(row.title, row.direction or "–", _severity(row.severity), row.evidence)
    return table


def _aggregation(result: CanaryResult, market: MarketView, p: Policy) -> Table:
    """Return the steps of the aggregation, in order, with what each came to. Row 0 of the card is the headline itself, so it is left out here."""
    life = result.lifecycle
    given = [(row.direction, row.severity, row.title) for row in result.rows[1:]] + [
        (s.direction, s.severity, _signal(s)) for s in result.signals
    ]
    highest = max((severity for _, severity, _ in given), key=_SEVERITIES.index, default="observe")
    from_ = [name for _, severity, name in given if severity == highest and highest != "observe"]
    directions = sorted({direction for direction, _, _ in given if direction})
    cushions = [x for x in (result.portfolio.cushion_pct, result.portfolio.look_ahead_cushion_pct) if x is not None]
    worst = min(cushions, default=None)
    known = (
        f"worst cushion {percent(worst, signed=False)} (danger < {p.margin_urgent_pct:g}, pressed < {p.margin_act_pct:g}), "
        f"{_count(len(market.confirming), 'confirming red')}, {len(market.ambiguous)} ambiguous, confirmed tape {'yes' if market.confirmed_tape else 'no'}"
    )
    capped = ""
    if _SEVERITIES.index(result.severity) < _SEVERITIES.index(highest):
        caps = {
            "urgent": f"urgent needs danger, or {p.rules.urgent_reds} confirming reds with at most {p.rules.urgent_max_ambiguous} ambiguous clusters",
            "act": "act against the market needs a confirming red, own margin pressed, or confirmed tape",
        }
        steps = _SEVERITIES[_SEVERITIES.index(result.severity) + 1 : _SEVERITIES.index(highest) + 1]
        capped = f"; held at {result.severity}: " + "; ".join(caps[step] for step in reversed(steps) if step in caps)
    raised = "; raised by the margin alert" if _SEVERITIES.index(result.severity) > _SEVERITIES.index(highest) else ""
    rows: list[tuple[str, RenderableType]] = [
        ("0 known", known),
        ("1 direction", f"{_names(directions)} → {result.direction or 'none'}"),
        ("2 severity", f"highest {highest}" + (f" ({_names(from_)})" if from_ else "") + capped + raised + f" → {result.severity}"),
        ("3 posture", result.portfolio_posture),
        ("4 drivers", _names(result.primary_drivers)),
        ("5 confidence", f"data {result.data_confidence}, signals {result.signal_confidence} → {result.confidence}"),
        ("  because", _names(result.confidence_reasons)),
        ("6 mode", result.planner_mode_hint),
        ("7 readiness", result.planner_readiness),
        ("8 stage", f"{result.direction or 'none'} / {result.severity} → {life.stage} · {life.timing}"),
        ("  confirmed by", _names(life.confirmed_by)),
        ("  unconfirmed", _names(life.unconfirmed)),
    ]
    if life.suppressed:
        rows.append(("  suppressed", _names(life.suppressed)))
    rows += [("  capped", f"{g.from_} → {g.to}: {g.reason} ({_names(g.clusters)})") for g in life.governors]
    if result.margin_alert is not None:
        m = result.margin_alert
        rows.append(("margin alert", m.state if m.state == "clear" else f"{m.state}: {m.severity}, {m.metric} past {number(m.threshold)}"))
    rows.append(("risk state", risk_state(result)))
    return _pairs(*rows)


def _sources(result: CanaryResult) -> Table:
    table = _table("source", "status", "confidence", "as of", "age", "at most", "notes", right=(4, 5), whole=(1, 2, 4, 5))
    for s in result.source_health:
        told: Any = "–" if s.as_of_ns is None else rfc3339(s.as_of_ns)[:19] + "Z"
        old = "–" if s.age_seconds is None else f"{number(s.age_seconds)} s"
        table.add_row(s.source, s.status, s.confidence, told, old, f"{s.max_age_seconds:g} s", ", ".join(s.notes))
    return table


def _keys(result: CanaryResult, width: int) -> RenderableType:
    """Return the keys, whole: on a narrow terminal each on a line of its own."""
    sources = result.source_fingerprints
    named = [
        ("canary", result.fingerprint.version, result.fingerprint.key),
        ("lifecycle", result.lifecycle.fingerprint.version, result.lifecycle.fingerprint.key),
        ("account", sources.account.version, sources.account.key),
        ("positions", sources.positions.version, sources.positions.key),
        ("regime", sources.regime.version, sources.regime.key),
        ("policy", f"{result.policy} {result.policy_version}", result.policy_fingerprint),
    ]
    if width >= _WIDE:
        return _pairs(*((name, f"{version} {key}") for name, version, key in named))
    lines: list[RenderableType] = []
    for name, version, key in named:
        lines += [Text.assemble((name, QUIET), f" {version}"), Text(key)]
    return Group(*lines)
