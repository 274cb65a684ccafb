"""Figures of a backtest by hand, gates over a history with gaps, and the calibration: no look into held-out years, one rule for the score."""

import json
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

import bench.canary_calibrate as calibration
from bench.canary_calibrate import (
    FALL,
    LADDERS,
    Choice,
    Fitted,
    Panel,
    alerts,
    as_verdicts,
    at_rate,
    calibrate,
    confirmation_of,
    cut_at,
    fallen,
    fit_steps,
    held_out,
    interval,
    leave_year_out,
    panel_of,
    points_of,
    rate_for,
    rates,
    scored,
    steps_of,
    walk_forward,
    within_years,
    without_score,
    write_profile,
)
from operators.backtest import (
    PANEL,
    Case,
    Verdict,
    cases_of,
    episodes_of,
    figures_of,
    for_history,
    served,
    verdicts_of,
)
from operators.clusters import RegimeInput, from_snapshot, market_of, moment_ns, rebanded
from schemas.policy import BUILT_IN, RiskPolicy, load_policies, read_policy

POLICIES = load_policies()
DEFAULT, GUARDED, CALIBRATED = (POLICIES[f"canary-{name}"] for name in ("default", "guarded", "calibrated"))
ACCOUNT = {"base_currency": "USD", "net_liquidation": 100_000.0, "cushion": 0.6, "gross_position_value": 50_000.0, "daily_pnl": 0.0}
POSITIONS = {
    "stocks": [{"symbol": "SPY"}],
    "options": [],
    "portfolio": {
        "dollar_delta_base": 40_000.0, "greeks_coverage": 0, "greeks_total": 0,
        "exposure_base": [{"underlying": "SPY", "market_value_base": 30_000.0, "market_value_pct_nlv": 30.0, "dollar_delta_base": 30_000.0}],
    },
}  # fmt: skip
CALM = {
    "vix_term_structure": {"vix": 15.0, "vix3m": 18.0, "vix_change_pct": 0.5},
    "vol_of_vol": {"last": 85.0, "change_20d_pct": 1.0},
    "hyg_spy_divergence": {"hyg_price": 80.4, "hyg_50dma": 80.0, "spy_price": 398.0, "spy_52w_high": 400.0, "spy_change_pct": 0.1},
    "funding_stress": {"cp_3m_rate": 0.3, "tbill_3m_rate": 0.2, "spread_bps": 10.0},
    "usd_jpy": {"last": 110.0, "close_7d_ago": 110.0, "weekly_change_pct": 0.0},
}


def dashboard(day: str, **changes: Any) -> dict[str, Any]:
    rows = {name: {**row, **changes.get(name, {}), "as_of_date": day} for name, row in CALM.items()}
    return {"as_of": f"{day}T21:00:00Z", "session_date": day, **rows}


@dataclass
class Row:
    """A line of a file, as connectors.canary_files delivers it."""

    date: str | None
    regime: dict[str, Any] | None
    label: dict[str, Any] = field(default_factory=dict)
    kind: str = "snapshot"
    group: str = ""
    account: dict[str, Any] | None = field(default_factory=lambda: dict(ACCOUNT))
    positions: dict[str, Any] | None = field(default_factory=lambda: dict(POSITIONS))

    @property
    def now_ns(self) -> int | None:
        return None if self.date is None else moment_ns(f"{self.date}T21:00:00Z")


def case(day: str, stress: bool | None = None, regime: RegimeInput | None = None, **changes: Any) -> Case:
    made = cases_of([Row(day, dashboard(day), {} if stress is None else {"stress": stress})])[0]
    return replace(made, **({"regime": regime} if regime is not None else {}), **changes)


def verdict(day: str, stress: bool | None, direction: str, severity: str, **changes: Any) -> Verdict:
    rebalances = changes.pop("rebalances", False)
    return Verdict(case(day, stress, **changes), "p", direction, severity, "", rebalances, None)


# --- days and alerts --------------------------------------------------------------------------------------------------------------


def test_days_come_in_order_of_dates_with_their_labels() -> None:
    label = {"stress": True, "scope": "portfolio", "kind": "squeeze", "days_to_stress": 2}
    found = cases_of(
        [Row("2024-01-03", dashboard("2024-01-03"), label, group="g"), Row(None, None), Row("2024-01-02", dashboard("2024-01-02"))]
    )
    assert [c.date for c in found] == ["2024-01-02", "2024-01-03"]
    assert (found[0].stress, found[0].scope, found[0].category, found[0].days_to_stress) == (None, "market", "", None)
    assert (found[1].stress, found[1].scope, found[1].category, found[1].days_to_stress) == (True, "portfolio", "squeeze", 2)
    assert (found[1].group, found[1].year) == ("g", "2024")


def test_a_day_without_a_date_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a date"):
        cases_of([Row(None, dashboard("2024-01-02"))])


def test_rows_without_history_are_not_read_of_a_panel() -> None:
    shown = dashboard("2024-01-02") | {
        "credit_spreads": {"hy_oas": 9.0, "status": "ok"},
        "breadth": {"envelope": {"pct_above_50dma": 10.0}},
    }
    panel, snapshot = (cases_of([Row("2024-01-02", shown, kind=kind)])[0] for kind in (PANEL, "snapshot"))
    assert panel.regime.rows["credit_spreads"].status == panel.regime.rows["breadth"].status == "unavailable"
    assert rebanded(panel.regime, DEFAULT).rows["credit_spreads"].band is None
    assert rebanded(snapshot.regime, DEFAULT).rows["credit_spreads"].band == "red"


@pytest.mark.parametrize(
    ("direction", "severity", "scope", "rebalances", "expected"),
    [
        ("defensive", "act", "market", False, (True, True, False)),
        ("mixed", "urgent", "market", False, (True, True, True)),
        ("constructive", "act", "market", False, (False, False, False)),
        ("data_quality", "watch", "market", False, (False, False, False)),
        ("rebalance", "watch", "market", True, (False, False, False)),
        ("rebalance", "watch", "portfolio", True, (True, False, False)),
        ("rebalance", "act", "portfolio", True, (True, False, False)),
        ("", "observe", "portfolio", False, (False, False, False)),
    ],
)
def test_what_counts_as_an_alert(direction: str, severity: str, scope: str, rebalances: bool, expected: tuple[bool, ...]) -> None:
    found = verdict("2024-01-02", True, direction, severity, scope=scope, rebalances=rebalances)
    assert tuple(found.alerts(level) for level in ("watch", "act", "urgent")) == expected


def test_verdicts_are_those_of_the_rules() -> None:
    red = {"vix_term_structure": {"vix": 30.0, "vix3m": 27.0, "vix_change_pct": 22.0}, "hyg_spy_divergence": {"spy_change_pct": -2.6}}
    days = cases_of([Row("2024-01-02", dashboard("2024-01-02")), Row("2024-01-03", dashboard("2024-01-03", **red))])
    calm, bad = verdicts_of(days, DEFAULT)
    assert (calm.severity, calm.alerts("watch"), calm.score) == ("watch", False, None)  # gamma and breadth are missing
    assert (bad.direction, bad.severity, bad.stage, bad.alerts("act")) == ("defensive", "act", "panic", True)
    assert verdicts_of(days, CALIBRATED)[1].score == market_of(rebanded(days[1].regime, CALIBRATED), CALIBRATED, days[1].now_ns).score


# --- figures ----------------------------------------------------------------------------------------------------------------------

TOLD = [
    verdict("2023-01-02", True, "defensive", "act", category="a", days_to_stress=4),
    verdict("2023-01-05", True, "mixed", "watch", category="a", days_to_stress=1),
    verdict("2023-01-20", True, "", "observe", category="b", days_to_stress=0),
    verdict("2024-01-03", True, "defensive", "act", category="b", days_to_stress=0),
    verdict("2024-02-01", False, "defensive", "act", category="b"),
    verdict("2024-02-02", False, "defensive", "watch", category="b"),
    verdict("2024-02-05", False, "constructive", "act", category="b"),
    verdict("2024-02-06", None, "defensive", "urgent", category="b"),
]


def test_figures_by_hand() -> None:
    watch, act, urgent = figures_of(TOLD)
    assert (watch.days, watch.stress_days, watch.alerts, watch.hits) == (7, 4, 5, 3)
    assert (watch.precision, watch.recall, watch.false_alarm_rate) == (3 / 5, 3 / 4, 2 / 3)
    assert (watch.lead_sessions, watch.episodes, watch.caught, watch.ahead, watch.episode_lead_sessions) == (1, 3, 2, 1, 2)
    assert (act.precision, act.recall, act.false_alarm_rate, act.lead_sessions) == (2 / 3, 2 / 4, 1 / 3, 2)
    assert (urgent.precision, urgent.recall, urgent.false_alarm_rate, urgent.lead_sessions) == (None, 0.0, 0.0, None)
    assert (urgent.caught, urgent.episode_lead_sessions) == (0, None)


def test_figures_by_part_add_up() -> None:
    found = figures_of([*TOLD, *(replace(v, profile="q") for v in TOLD)], by=("category", "year"), levels=("watch",))
    assert [(f.profile, f.part, f.name) for f in found[:5]] == [
        ("p", "all", ""), ("p", "category", "a"), ("p", "category", "b"), ("p", "year", "2023"), ("p", "year", "2024"),
    ]  # fmt: skip
    assert [f.profile for f in found[5:]] == ["q"] * 5
    for part in ("category", "year"):
        pieces = [f for f in found[:5] if f.part == part]
        assert sum(f.days for f in pieces) == found[0].days
        assert sum(f.hits for f in pieces) == found[0].hits
    assert found[1].false_alarm_rate is None  # no calm day in it
    with pytest.raises(KeyError):
        figures_of(TOLD, by=("weather",))


def test_an_episode_ends_after_a_week_without_stress() -> None:
    days = ["2024-01-02", "2024-01-09", "2024-01-18", "2024-01-10"]
    found = episodes_of([verdict(day, True, "", "observe") for day in days])
    assert [[v.case.date for v in episode] for episode in found] == [["2024-01-02", "2024-01-09", "2024-01-10"], ["2024-01-18"]]


def test_the_lead_of_a_label_that_does_not_say_is_counted_in_weekdays() -> None:
    friday = verdict("2024-01-05", False, "defensive", "watch")
    tuesday = verdict("2024-01-09", True, "defensive", "watch")
    long_before = verdict("2023-12-29", False, "defensive", "watch")
    (found,) = figures_of([long_before, friday, tuesday], levels=("watch",))
    assert (found.episode_lead_sessions, found.ahead, found.lead_sessions) == (2, 1, None)
    (found,) = figures_of([replace(friday, direction=""), tuesday], levels=("watch",))
    assert (found.episode_lead_sessions, found.ahead) == (0, 0)
    (found,) = figures_of([friday, replace(tuesday, direction="")], levels=("watch",))
    assert (found.caught, found.episode_lead_sessions) == (0, None)


# --- a profile with gates over a history ------------------------------------------------------------------------------------------


def vol_of_vol(*days: tuple[str, float]) -> list[tuple[str | None, int | None, str | None]]:
    made = cases_of([Row(day, dashboard(day, vol_of_vol={"last": last})) for day, last in days])
    rows = [regime.rows["vol_of_vol"] for regime in served(made, for_history(GUARDED, made))]
    return [(row.band, row.sessions, row.eligibility) for row in rows]


def test_sessions_go_on_over_a_weekend_and_not_over_a_gap() -> None:
    friday, monday, wednesday, thursday = "2024-01-05", "2024-01-08", "2024-01-10", "2024-01-11"
    found = vol_of_vol((friday, 112.0), (monday, 111.0), (wednesday, 112.0), (thursday, 112.0))
    assert found == [("red", 1, "streak_1_of_2"), ("red", 2, "eligible"), ("red", 1, "streak_1_of_2"), ("red", 2, "eligible")]


def test_a_red_is_left_only_beyond_its_leave_level() -> None:
    found = vol_of_vol(("2024-01-08", 125.0), ("2024-01-09", 106.0), ("2024-01-10", 104.0), ("2024-01-11", 106.0))
    assert [band for band, *_ in found] == ["red", "red", "yellow", "yellow"]


def test_the_default_profile_has_no_memory() -> None:
    made = cases_of([Row(day, dashboard(day, vol_of_vol={"last": 112.0})) for day in ("2024-01-08", "2024-01-09")])
    assert [r.rows["vol_of_vol"].eligibility for r in served(made, DEFAULT)] == [None, None]


def test_clusters_nobody_measured_have_no_feed_by_design_where_that_matters() -> None:
    made = cases_of([Row("2024-01-08", dashboard("2024-01-08"))])
    assert for_history(GUARDED, made).policy.switches.not_configured_clusters == ("gamma", "breadth")
    assert for_history(DEFAULT, made) is DEFAULT
    as_it_is, as_used = (market_of(rebanded(made[0].regime, p), p, made[0].now_ns) for p in (GUARDED, for_history(GUARDED, made)))
    assert {"gamma", "breadth"} <= set(as_it_is.defects)
    assert as_it_is.lifecycle["stage"] == "data_quality"
    assert not {"gamma", "breadth"} & set(as_used.defects)


# --- calibration ------------------------------------------------------------------------------------------------------------------


def made_days(seed: int, per_year: int = 60, years: tuple[int, ...] = (2016, 2017, 2018, 2019)) -> list[Case]:
    """Days with a common stress factor behind their figures, some figures missing; the label is drawn by the factor, and by a fall of the day."""
    rng = np.random.default_rng(seed)
    found = []
    for year in years:
        for k in range(per_year):
            day = (date(year, 1, 2) + timedelta(days=5 * k)).isoformat()
            heat = float(rng.gamma(1.2, 0.8))
            vix = 12 + 7 * heat + float(rng.normal(0, 2))
            fall = round(float(rng.normal(-0.2 * heat, 0.6 + 0.5 * heat)), 4)
            shown = dashboard(
                day,
                vix_term_structure={
                    "vix": round(vix, 2), "vix3m": round(vix / (0.84 + 0.06 * heat), 2), "vix_change_pct": round(float(rng.normal(heat, 6)), 4),
                },
                vol_of_vol={"last": None if rng.random() < 0.05 else round(82 + 10 * heat, 2), "change_20d_pct": round(float(rng.normal(heat, 12)), 4)},
                hyg_spy_divergence={
                    "hyg_price": round(80 - 0.4 * heat + float(rng.normal(0, 0.5)), 2), "spy_price": round(400 - 12 * heat, 2), "spy_change_pct": fall,
                },
                usd_jpy={"last": round(110 - float(rng.normal(0, 1.5)), 2)},
            )  # fmt: skip
            if rng.random() < 0.05:
                shown["funding_stress"] = {"status": "unavailable"}
            stress = fall <= FALL[1] or bool(rng.random() < 1 / (1 + np.exp(4 - 1.3 * heat)))
            found.append(Row(day, shown, {"stress": stress, "days_to_stress": int(rng.integers(0, 6))} if stress else {"stress": False}))
    return list(cases_of(found))


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(made_days(7), DEFAULT, CALIBRATED)


@pytest.fixture(autouse=True)
def few_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "CHOICES", (Choice(1, 3), Choice(1, 5)))


def relabelled(panel: Panel, year: int) -> Panel:
    """Return the panel with the labels and the baseline of one year turned around."""
    of = panel.years == year
    return replace(panel, stress=panel.stress ^ of, act=panel.act ^ of, watch=panel.watch ^ of, sums={})


def test_the_panel_reads_the_figures_the_rules_read(panel: Panel) -> None:
    assert panel.values.shape == (240, len(LADDERS))
    assert np.isnan(panel.values).any()
    assert panel.stress.any()
    assert panel.act.sum() < panel.watch.sum()
    found = dict(zip(LADDERS, panel.values[0], strict=True))
    row = panel.cases[0].regime.rows["vix_term_structure"]
    assert found["vix"] == row.value("vix")
    assert found["spy_change_pct"] == panel.cases[0].regime.spy_change_pct


def test_the_score_of_all_days_at_once_is_that_of_the_rules(panel: Panel) -> None:
    for confirmation in (CALIBRATED.policy.confirmation, confirmation_of(calibrate(panel, panel.all_years))):
        assert confirmation is not None
        policy = with_confirmation(confirmation)
        found = [market_of(rebanded(c.regime, policy), policy, c.now_ns).score for c in panel.cases]
        assert scored(panel, confirmation).tolist() == found


def test_alerts_of_all_days_at_once_are_those_of_the_canary(panel: Panel) -> None:
    confirmation = confirmation_of(calibrate(panel, panel.all_years))
    found = verdicts_of(panel.cases, with_confirmation(confirmation))
    for level in ("watch", "act"):
        assert [v.alerts(level) for v in found] == alerts(panel, confirmation)[level].tolist()
    assert [v.stage == "panic" for v in found if v.alerts("act")] == [
        bool(v.score and v.score >= confirmation.urgent) for v in found if v.alerts("act")
    ]


@pytest.mark.parametrize("name", list(LADDERS))
def test_a_level_holds_from_exactly_its_value_on(panel: Panel, name: str) -> None:
    fitted = Fitted(Choice(1, 1), {name: np.arange(1, len(LADDERS[name]) + 1, dtype=np.int64)}, (0.0, 0.0), (40, 50, 60))
    confirmation = confirmation_of(fitted)
    step = -1e-6 if name in calibration.FALLS else 1e-6
    for k, level in enumerate(LADDERS[name]):
        for value, expected in ((level - step, k), (level, k + 1), (level + step, k + 1)):
            values = np.full((1, len(LADDERS)), np.nan)
            values[0, list(LADDERS).index(name)] = value
            one = Panel((), values, *(np.zeros(1, kind) for kind in (np.int64, bool, bool, bool, bool)))
            assert scored(one, confirmation)[0] == expected, (value, level)


def with_confirmation(confirmation: Any) -> RiskPolicy:
    return CALIBRATED.model_copy(update={"policy": CALIBRATED.policy.model_copy(update={"confirmation": confirmation})})


def test_steps_of_a_missing_figure_are_none() -> None:
    assert steps_of(np.array([np.nan, 1.0, 3.0]), (1.0, 2.0), False).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert steps_of(np.array([np.nan, -1.0, -3.0]), (-1.0, -2.0), True).tolist() == [[0, 0], [1, 0], [1, 1]]


def test_the_fit_is_the_best_without_negative_weights() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(400, 3))
    x = np.concatenate([steps_of(values[:, i], (-0.5, 0.0, 0.5, 1.0), False) for i in range(3)], axis=1)
    stress = rng.random(400) < 1 / (1 + np.exp(1.5 - 1.4 * values[:, 0] + 0.8 * values[:, 1]))
    weight = rng.uniform(0.5, 2.0, 400)
    found = fit_steps(x, stress, weight, ridge=2.0)
    assert (found >= 0).all()
    assert found[4:8].max() == 0.0  # the second figure speaks against stress
    level = 0.0
    for _ in range(60):  # the intercept that belongs to these weights
        p = 1 / (1 + np.exp(-(level + x @ found)))
        level += (weight * (stress - p)).sum() / (weight * p * (1 - p)).sum()
    slope = x.T @ (weight * (stress - 1 / (1 + np.exp(-(level + x @ found))))) - 2.0 * found
    assert np.abs(slope[found > 0]).max() < 1e-2
    assert slope[found == 0].max() < 1e-2


def test_points_are_whole_and_never_fall() -> None:
    weights = [np.full(len(LADDERS[name]), 1.0 / (i + 1)) for i, name in enumerate(LADDERS)]
    found = points_of(weights, 3)
    assert list(found) == ["vix", "vix_term", "vvix"]
    assert sum(int(p[-1]) for p in found.values()) == pytest.approx(calibration.POINTS, abs=2)
    for given in found.values():
        assert given.dtype == np.int64
        assert (np.diff(given) >= 0).all()
    assert points_of([np.zeros_like(w) for w in weights], 3) == {}


def test_a_cut_keeps_the_rate() -> None:
    share = np.array([0.0, 0.1, 0.1, 0.2, 0.3, 0.4])
    stress = np.array([True, False, True, False, False, False])
    every = np.ones(6, bool)
    assert cut_at(share, every, stress, 0.25) == 0.1
    assert cut_at(share, every, stress, 0.24) == 0.0
    assert cut_at(share, every, stress, 1.0) == 0.4
    assert cut_at(share, every, stress, 0.25, also=np.array([False] * 5 + [True])) == 0.0
    assert cut_at(share, every, stress, 0.2, also=np.array([False] * 5 + [True])) == -1.0


def test_the_fit_keeps_the_baselines_rates_on_its_own_days(panel: Panel) -> None:
    fitted = calibrate(panel, panel.all_years)
    found = alerts(panel, confirmation_of(fitted))
    watch, act, urgent = fitted.levels
    assert 0 < watch < act < urgent
    calm = ~panel.stress
    assert found["act"][calm].mean() <= panel.act[calm].mean()
    assert found["watch"][calm].mean() <= panel.watch[calm].mean()
    assert found["urgent"].sum() < found["act"].sum() < found["watch"].sum()
    assert found["act"][fallen(panel)].all()
    assert found["act"][panel.stress].mean() > 0.3  # the made days have something to learn


def test_the_same_days_give_the_same_fit(panel: Panel) -> None:
    again = replace(panel, sums={})
    assert confirmation_of(calibrate(again, again.all_years)) == confirmation_of(calibrate(panel, panel.all_years))


@pytest.mark.parametrize("year", [2016, 2018])
def test_a_held_out_year_has_no_say_in_how_it_is_judged(panel: Panel, year: int) -> None:
    other = relabelled(panel, year)
    of = panel.years == year
    choice = Choice(1, 3)
    years = panel.all_years
    assert (held_out(panel, choice, years)[of] == held_out(other, choice, years)[of]).all()
    before, after = leave_year_out(panel), leave_year_out(other)
    for level in ("watch", "act", "urgent"):
        assert (before.alerts[level][of] == after.alerts[level][of]).all()
    assert any((before.alerts[level] != after.alerts[level]).any() for level in ("watch", "act"))  # the other years do learn from it


def test_later_years_have_no_say_in_earlier_ones(panel: Panel) -> None:
    before, after = walk_forward(panel), walk_forward(relabelled(panel, 2019))
    assert list(before.fits) == [2018, 2019]
    assert before.rows.sum() == 120
    for level in ("watch", "act", "urgent"):
        assert (before.alerts[level] == after.alerts[level]).all()  # 2019 is the last: nobody learns from it


def test_nothing_to_learn_from_is_said(panel: Panel) -> None:
    with pytest.raises(ValueError, match="nothing to learn from"):
        calibrate(replace(panel, stress=np.zeros_like(panel.stress), sums={}), panel.all_years)


def test_an_act_without_the_score_is_refused() -> None:
    with pytest.raises(ValueError, match="does not confirm by score"):
        without_score(DEFAULT)
    with pytest.raises(ValueError, match=r"target\.stress"):
        panel_of([case("2024-01-02")], DEFAULT, CALIBRATED)


def test_rates_and_their_intervals(panel: Panel) -> None:
    stress, alert = np.array([True, True, False, False, False]), np.array([True, False, True, False, False])
    assert rates(alert, stress) == (1 / 2, 1 / 3, 1 / 2)
    found = interval(panel, np.ones(240, bool), panel.act, panel.act, seed=1)
    assert found["recall_gain"] == found["false_alarm_change"] == (0.0, 0.0)
    low, high = found["recall"]
    assert low <= rates(panel.act, panel.stress)[0] <= high
    assert found == interval(panel, np.ones(240, bool), panel.act, panel.act, seed=1)


def test_what_the_order_of_days_is_worth(panel: Panel) -> None:
    scheme = leave_year_out(panel)
    recall, rate = at_rate(panel, scheme, 0.1)
    assert rate <= 0.1
    needed = rate_for(panel, scheme, recall)
    assert needed is not None
    assert needed <= rate
    assert rate_for(panel, scheme, 1.01) is None
    for year, (before, _) in within_years(panel, scheme).items():
        assert before == (panel.act & panel.stress & (panel.years == year)).sum()


def test_alerts_counted_by_the_backtest_are_the_rates(panel: Panel) -> None:
    found = alerts(panel, confirmation_of(calibrate(panel, panel.all_years)))
    for figures in figures_of(as_verdicts(panel, np.ones(240, bool), "p", found)):
        recall, false, precision = rates(found[figures.level], panel.stress)
        assert (figures.recall, figures.false_alarm_rate, figures.precision) == (recall, false, precision)


def test_the_profile_is_written_and_read_back(panel: Panel, tmp_path: Any) -> None:
    path = tmp_path / "profile.json"
    path.write_text((BUILT_IN / "canary-calibrated.json").read_text())
    confirmation = confirmation_of(calibrate(panel, panel.all_years))
    write_profile(path, confirmation)
    found = read_policy(path)
    assert found.policy.confirmation == confirmation
    assert found.policy.model_copy(update={"confirmation": None}) == CALIBRATED.policy.model_copy(update={"confirmation": None})
    write_profile(path, CALIBRATED.policy.confirmation)  # type: ignore[arg-type]
    assert path.read_text() == (BUILT_IN / "canary-calibrated.json").read_text()


def test_the_command_writes_checks_and_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    days = tmp_path / "days.jsonl"
    profile = tmp_path / "profile.json"
    profile.write_text((BUILT_IN / "canary-calibrated.json").read_text())
    lines = []
    for made in made_days(11, per_year=40):
        rows = {name: {**row.values, "status": row.status or None} for name, row in made.regime.rows.items() if row.values}
        lines.append(json.dumps({"date": made.date, **rows, "target": {"stress": made.stress}}))
    days.write_text("\n".join(lines) + "\n")
    options = ["--profile", str(profile)]
    assert calibration.main([str(days), "--check", *options]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["profile_is_the_fit"] is False
    assert calibration.main([str(days), "--write", *options]) == 0
    capsys.readouterr()
    assert calibration.main([str(days), "--check", *options]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["profile_is_the_fit"] is True
    assert line["days"] == 160
    days.write_text("not json\n")
    assert calibration.main([str(days), *options]) == 2
    assert "line 1" in capsys.readouterr().err


# --- the profile that ships -------------------------------------------------------------------------------------------------------


def test_the_shipped_profile_explains_a_day() -> None:
    """2020-03-09 and a calm day, from public values: every point has a figure behind it."""
    confirmation = CALIBRATED.policy.confirmation
    assert confirmation is not None
    crash = dashboard(
        "2020-03-09",
        vix_term_structure={"vix": 54.46, "vix3m": 43.05, "vix_change_pct": 29.8522},
        hyg_spy_divergence={"spy_price": 274.23, "spy_52w_high": 338.34, "spy_change_pct": -7.8095},
    )
    for shown, confirmed in ((crash, True), (dashboard("2020-01-15"), False)):
        view = market_of(rebanded(from_snapshot(shown), CALIBRATED), CALIBRATED, moment_ns(shown["as_of"]) or 0)
        assert view.score == sum(points for *_, points in view.score_terms)
        assert [term[0] for term in view.score_terms] == [term.id for term in confirmation.terms]
        assert view.stress_confirmed is confirmed
    assert view.score is not None
    assert view.score < confirmation.watch


def test_the_shipped_profile_confirms_a_hard_fall_alone() -> None:
    confirmation = CALIBRATED.policy.confirmation
    assert confirmation is not None
    alone = [term for term in confirmation.terms if term.feature == FALL[0]]
    assert [(term.levels[-1], term.points[-1]) for term in alone] == [(FALL[1], confirmation.act)]
