"""Where the levels of the profile `canary-calibrated` come from: labelled market days, nested cross-validation by calendar year, and the fit itself.

Run `python -m bench.canary_calibrate PANEL` on a panel of labelled days (JSON lines, plain or gzip). It prints what the profile would have been worth on
years it had not seen, beside the other profiles, and ends with one line of JSON. `--write` puts the fitted terms into the profile's file, `--check`
ends with 1 when the file says something else than the fit. Method and figures: docs/canary-calibration.md.

The model: each figure of the dashboard has a ladder of levels. For every small set of figures a logistic regression is fitted on the steps of their
ladders, with weights that may not be negative and a ridge; the weights of all sets are added up, the heaviest figures are kept and the sum becomes
points out of 100. Adding up many small models instead of choosing one of them is what makes the result stable from year to year. Labels look some
sessions ahead, so that neighbouring days share them: a year is held out whole, never a day.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from connectors.canary_files import CanaryFileError, read_file
from operators.backtest import Case, Verdict, cases_of, figures_of, verdicts_of
from operators.clusters import features_of
from schemas.policy import BUILT_IN, Confirmation, PolicyError, RiskPolicy, Term, load_policies, read_policy

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

PROFILE = "canary-calibrated"
BASELINE = "canary-default"
GUARDED = "canary-guarded"
LADDERS: dict[str, tuple[float, ...]] = {
    "vix": (16, 18, 20, 22, 25, 28, 32, 40),
    "vix_term": (0.86, 0.89, 0.92, 0.95, 0.98, 1.0, 1.05, 1.12),
    "vvix": (90, 100, 110, 120, 130, 145),
    "vvix_change_20d_pct": (0, 10, 20, 40),
    "hyg_below_mean_pct": (-0.5, 0, 0.5, 1, 1.5, 2, 3, 4.5),
    "spy_below_high_pct": (1, 2, 4, 6, 9, 12, 16, 20),
    "spy_change_pct": (-0.5, -1, -1.5, -2, -2.5),
    "vix_change_pct": (0, 5, 10, 15, 20, 30),
    "funding_bps": (25, 40, 75),
    "yen_move_pct": (0.5, 1, 1.5, 2, 3),
}
"""Levels of each figure toward more stress: round numbers around the bands, set beforehand and not fitted."""
FALLS = ("spy_change_pct",)
"""Figures that speak for stress when they are low."""
FALL = ("spy_change_pct", -3.0)
"""A day's fall that is stress by the label's own definition: it confirms alone, and such days teach the other levels nothing."""
POINTS = 100
RIDGE = 10.0
YEAR_POWER = 0.5
"""A year with n stress days weighs as n ** (1 - YEAR_POWER) of them, so that one crisis does not decide alone."""
SIZES = (2, 3)
KEPT = (3, 4, 6, 10)
NEAR = (0.6, 0.8, 1.0, 1.2, 1.4)
"""Choices are made by the mean recall at these multiples of the allowed rate: one rate alone is a lottery with so few stress days."""
URGENT_PART = 0.25
"""Share of the false alarms at `act` that may also be `urgent`."""
RESAMPLES = 4_000
WIDTH = 150
LEVELS = ("watch", "act", "urgent")


@dataclass(frozen=True)
class Panel:
    """Labelled days. values (n, features in the order of LADDERS), NaN for missing; years (n,); stress (n,): the label; watch, act (n,): alerts of the
    baseline; other (n,): days that are worth a watch whatever the score says."""

    cases: tuple[Case, ...]
    values: Floats
    years: Ints
    stress: Bools
    watch: Bools
    act: Bools
    other: Bools
    sums: dict[tuple[int, tuple[int, ...]], tuple[Floats, ...]] = field(default_factory=dict)

    @property
    def all_years(self) -> tuple[int, ...]:
        """Calendar years in order."""
        return tuple(int(year) for year in np.unique(self.years))

    def of(self, years: Iterable[int]) -> Bools:
        """Return which days are of the years, (n,)."""
        return np.isin(self.years, list(years))


class Choice(NamedTuple):
    """What is chosen by cross-validation: figures in a set at most, and figures that are kept."""

    size: int
    kept: int


CHOICES = tuple(Choice(size, kept) for kept in KEPT for size in SIZES)


# --- the fit ----------------------------------------------------------------------------------------------------------------------


def steps_of(values: Floats, levels: Sequence[float], falls: bool) -> Floats:
    """Return which levels a figure has reached, (n, levels) of 0 and 1. Missing: none."""
    with np.errstate(invalid="ignore"):
        return np.stack([values <= level if falls else values >= level for level in levels], axis=1).astype(np.float64)


def fit_steps(x: Floats, stress: Bools, weight: Floats, ridge: float = RIDGE) -> Floats:
    """Return weights (k,), none negative, of a logistic regression on steps x (n, k) with a free intercept and a ridge.

    Newton steps; within each, the quadratic is solved by going over the coordinates until nothing moves. Deterministic.
    """
    t = stress.astype(np.float64)
    w = np.zeros(x.shape[1])
    level = float(np.log((weight * t).sum() / (weight * (1 - t)).sum()))
    for _ in range(40):
        p = 1 / (1 + np.exp(-(level + x @ w)))
        q = weight * p * (1 - p)
        slope, gradient = x.T @ q, x.T @ (weight * (t - p))
        curve = (x * q[:, None]).T @ x
        total, pull = float(q.sum()), float((weight * (t - p)).sum())
        move, shift = np.zeros_like(w), 0.0
        for _ in range(60):
            shift = float(pull - slope @ move) / total
            most = 0.0
            for j in range(len(w)):
                rest = gradient[j] - curve[j] @ move + curve[j, j] * move[j] - slope[j] * shift - ridge * w[j]
                new = max(rest / (curve[j, j] + ridge), -w[j])
                most = max(most, abs(new - move[j]))
                move[j] = new
            if most < 1e-5:
                break
        w = np.maximum(w + move, 0.0)
        level += shift
        if max(float(np.abs(move).max()), abs(shift)) < 1e-4:
            break
    return w


def day_weights(panel: Panel, rows: Bools) -> Floats:
    """Return how much each day counts in a fit on some rows, (n,): calm days 1, stress days by YEAR_POWER, together as much as unweighted."""
    weight = np.ones(len(panel.years))
    for year in panel.all_years:
        found = rows & panel.stress & (panel.years == year)
        if found.any():
            weight[found] = float(found.sum()) ** -YEAR_POWER
    stress = rows & panel.stress
    weight[stress] *= stress.sum() / weight[stress].sum()
    return weight


def fallen(panel: Panel) -> Bools:
    """Return the days whose fall confirms alone, (n,)."""
    with np.errstate(invalid="ignore"):
        return panel.values[:, list(LADDERS).index(FALL[0])] <= FALL[1]


def added_up(panel: Panel, size: int, training: Sequence[int]) -> tuple[Floats, ...]:
    """Return per figure the weights of its steps, added up over the fits of all sets of at most `size` figures on the days of the training years."""
    key = (size, tuple(training))
    if key not in panel.sums:
        rows = panel.of(training) & ~fallen(panel)
        if not panel.stress[rows].any() or panel.stress[rows].all():
            raise ValueError(
                f"nothing to learn from in {', '.join(map(str, training))}: stress days (without a fall) and calm ones are needed"
            )
        weight = day_weights(panel, rows)[rows]
        names = list(LADDERS)
        steps = [steps_of(panel.values[rows, i], LADDERS[name], name in FALLS) for i, name in enumerate(names)]
        total = [np.zeros(len(LADDERS[name])) for name in names]
        for chosen in itertools.combinations(range(len(names)), size):
            found = fit_steps(np.concatenate([steps[i] for i in chosen], axis=1), panel.stress[rows], weight)
            at = 0
            for i in chosen:
                total[i] += found[at : at + len(total[i])]
                at += len(total[i])
        smaller = added_up(panel, size - 1, training) if size > 1 else tuple(np.zeros_like(t) for t in total)
        panel.sums[key] = tuple(a + b for a, b in zip(total, smaller, strict=True))
    return panel.sums[key]


def points_of(weights: Sequence[Floats], kept: int) -> dict[str, Ints]:
    """Return whole points per level of the `kept` heaviest figures, POINTS together at most. Ties go to the figure that is first in LADDERS."""
    names = list(LADDERS)
    mass = [float(w.sum()) for w in weights]
    best = sorted(sorted(range(len(names)), key=lambda i: -mass[i])[:kept])
    whole = sum(mass[i] for i in best) or 1.0
    return {names[i]: np.round(np.cumsum(weights[i]) * POINTS / whole).astype(np.int64) for i in best if mass[i] > 0}


def score_of(panel: Panel, points: Mapping[str, Ints]) -> Ints:
    """Return the points of each day, (n,), without what a fall gives that confirms alone."""
    score = np.zeros(len(panel.years), np.int64)
    for i, name in enumerate(LADDERS):
        if name in points:
            reached = steps_of(panel.values[:, i], LADDERS[name], name in FALLS).astype(np.int64)
            score += reached @ np.diff(np.concatenate([np.zeros(1, np.int64), points[name]]))
    return score


def rarity(panel: Panel, points: Mapping[str, Ints], training: Sequence[int]) -> Floats:
    """Return per day the share of the calm training days that score as high or higher, (n,): 0 is the rarest. Comparable between fits.

    Days whose fall confirms alone are at -1, before all others.
    """
    score = score_of(panel, points)
    calm = np.sort(score[panel.of(training) & ~panel.stress & ~fallen(panel)])
    share = 1 - np.searchsorted(calm, score, "left") / len(calm)
    return np.where(fallen(panel), -1.0, share)


def rarity_by(panel: Panel, choice: Choice, training: Sequence[int]) -> Floats:
    """Return the rarity of each day, (n,), by a fit on the training years."""
    return rarity(panel, points_of(added_up(panel, choice.size, training), choice.kept), training)


# --- choosing ---------------------------------------------------------------------------------------------------------------------


def held_out(panel: Panel, choice: Choice, years: Sequence[int]) -> Floats:
    """Return the rarity of each day of the years by the fit on the *other* years among them, (n,), NaN elsewhere."""
    found = np.full(len(panel.years), np.nan)
    for year in years:
        rows = panel.years == year
        found[rows] = rarity_by(panel, choice, [other for other in years if other != year])[rows]
    return found


def cut_at(share: Floats, rows: Bools, stress: Bools, allowed: float, also: Bools | None = None) -> float:
    """Return the greatest share at which the false-alarm rate on the rows is within `allowed`; -1 when none is. also: days that alert anyway."""
    calm = rows & ~stress
    best = -1.0
    for level in np.unique(share[rows]):
        alert = share <= level if also is None else (share <= level) | also
        if alert[calm].mean() > allowed:
            break
        best = float(level)
    return best


def worth(share: Floats, rows: Bools, stress: Bools, allowed: float) -> float:
    """Return the mean recall at false-alarm rates around the allowed one (NEAR)."""
    calm = np.sort(share[rows & ~stress])
    at = [calm[min(int(part * allowed * len(calm)), len(calm) - 1)] for part in NEAR]
    return float(np.mean([(share[rows & stress] < level).mean() for level in at]))


class Fitted(NamedTuple):
    """A fit on some years. cuts: rarities of watch and act; levels: scores of watch, act, urgent."""

    choice: Choice
    points: dict[str, Ints]
    cuts: tuple[float, float]
    levels: tuple[int, int, int]


def calibrate(panel: Panel, years: Sequence[int]) -> Fitted:
    """Return everything that is chosen, by the days of some years alone: figures, points, levels.

    The choice and the cuts come from leaving each of the years out in turn. The rates allowed are those of the baseline on the same days; the levels keep
    them on the days of the fit too.
    """
    rows = panel.of(years)
    calm = rows & ~panel.stress
    allowed_act, allowed_watch = float(panel.act[calm].mean()), float(panel.watch[calm].mean())
    shares = {choice: held_out(panel, choice, years) for choice in CHOICES}
    choice = max(CHOICES, key=lambda c: (worth(shares[c], rows, panel.stress, allowed_act), -c.kept, -c.size))
    act_cut = cut_at(shares[choice], rows, panel.stress, allowed_act)
    watch_cut = cut_at(shares[choice], rows, panel.stress, allowed_watch, panel.other)
    points = points_of(added_up(panel, choice.size, years), choice.kept)
    score = score_of(panel, points)
    quiet = calm & ~fallen(panel)

    def level_at(cut: float, least: int, allowed: float, also: Bools | None) -> int:
        """Return the least score that no more than the cut of the quiet days reach, with a false-alarm rate within `allowed` on these very days."""
        for level in range(least, POINTS + 2):
            alert = (score >= level) | fallen(panel)
            if (score[quiet] >= level).mean() <= cut and (alert if also is None else alert | also)[calm].mean() <= allowed:
                return level
        return max(least, POINTS + 2)

    watch = level_at(watch_cut, 1, allowed_watch, panel.other)
    act = level_at(act_cut, watch + 1, allowed_act, None)
    urgent = level_at(max(act_cut, 0.0) * URGENT_PART, act + 1, allowed_act * URGENT_PART, None)
    return Fitted(choice, points, (watch_cut, act_cut), (watch, act, urgent))


def confirmation_of(fitted: Fitted) -> Confirmation:
    """Return the fit as the profile carries it: levels that give no more points than the one before them are left out."""
    watch, act, urgent = fitted.levels
    terms = []
    for name, given in fitted.points.items():
        kept = [(level, int(p)) for level, p, before in zip(LADDERS[name], given, [0, *given[:-1]], strict=True) if p > before]
        if name == FALL[0]:
            kept = [*((level, p) for level, p in kept if p < act), (FALL[1], act)]
        if kept:
            levels, points = zip(*kept, strict=True)
            terms.append(_term(name, levels, points))
    if FALL[0] not in fitted.points:
        terms.append(_term(FALL[0], (FALL[1],), (act,)))
    return Confirmation(watch=watch, act=act, urgent=urgent, terms=tuple(terms))


def _term(name: str, levels: tuple[float, ...], points: tuple[int, ...]) -> Term:
    side = "below" if name in FALLS else "above"
    return Term.model_validate({"id": name, "feature": name, "side": side, "levels": levels, "points": points})


def scored(panel: Panel, confirmation: Confirmation) -> Floats:
    """Return the score of each day, (n,), by the terms of a profile: the same sum as operators.clusters.market_of, for all days at once."""
    total = np.zeros(len(panel.years))
    for term in confirmation.terms:
        values = panel.values[:, list(LADDERS).index(term.feature)]
        reached = steps_of(values, term.levels, term.side == "below")
        total += reached @ np.diff(np.concatenate([[0.0], np.asarray(term.points, np.float64)]))
    return total


def alerts(panel: Panel, confirmation: Confirmation) -> dict[str, Bools]:
    """Return which days alert at each level, (n,). `urgent` is the score's own level (stage panic)."""
    score = scored(panel, confirmation)
    return {
        "watch": (score >= confirmation.watch) | panel.other,
        "act": score >= confirmation.act,
        "urgent": score >= confirmation.urgent,
    }


# --- judging ----------------------------------------------------------------------------------------------------------------------


class Scheme(NamedTuple):
    """A way to judge. rows (n,): days that are judged; fits: by year, on other years than that; alerts (n,) by level; share (n,): rarity of each judged
    day by its year's fit."""

    name: str
    rows: Bools
    fits: dict[int, Fitted]
    alerts: dict[str, Bools]
    share: Floats


def leave_year_out(panel: Panel) -> Scheme:
    """Judge every year by a fit on all the others."""
    training = {year: [other for other in panel.all_years if other != year] for year in panel.all_years}
    return _judged(panel, "leave a year out", training)


def walk_forward(panel: Panel) -> Scheme:
    """Judge every year by a fit on the years before it, from where two of those had stress days."""
    training = {year: [other for other in panel.all_years if other < year] for year in panel.all_years}
    enough = {year: sum(bool(panel.stress[panel.years == other].any()) for other in earlier) >= 2 for year, earlier in training.items()}
    return _judged(panel, "earlier years only", {year: earlier for year, earlier in training.items() if enough[year]})


def _judged(panel: Panel, name: str, training: Mapping[int, list[int]]) -> Scheme:
    fits = {year: calibrate(panel, years) for year, years in training.items()}
    found = {level: np.zeros(len(panel.years), bool) for level in LEVELS}
    share = np.ones(len(panel.years))
    for year, fitted in fits.items():
        rows = panel.years == year
        share[rows] = rarity(panel, fitted.points, training[year])[rows]
        for level, alert in alerts(panel, confirmation_of(fitted)).items():
            found[level][rows] = alert[rows]
    return Scheme(name, panel.of(fits), fits, found, share)


def at_rate(panel: Panel, scheme: Scheme, allowed: float) -> tuple[float, float]:
    """Return recall and false-alarm rate of a scheme's scores at the cut that just keeps a rate: what the order of days is worth, cut afterwards."""
    alert = (scheme.share <= cut_at(scheme.share, scheme.rows, panel.stress, allowed))[scheme.rows]
    return rates(alert, panel.stress[scheme.rows])[:2]


def rate_for(panel: Panel, scheme: Scheme, recall: float) -> float | None:
    """Return the false-alarm rate a scheme's scores need for a recall; None when they do not reach it."""
    stress, share = panel.stress[scheme.rows], scheme.share[scheme.rows]
    for level in np.unique(share):
        if (share[stress] <= level).mean() >= recall:
            return float((share[~stress] <= level).mean())
    return None


def within_years(panel: Panel, scheme: Scheme) -> dict[int, tuple[int, int]]:
    """Return by year the stress days caught by the baseline at act, and by the score if each year were cut to the baseline's false alarms in it."""
    found = {}
    for year, fitted in scheme.fits.items():
        of = panel.years == year
        score = np.where(fallen(panel), POINTS * 2, score_of(panel, fitted.points))[of]
        stress, before = panel.stress[of], panel.act[of]
        calm = np.sort(score[~stress])[::-1]
        allowed = int((before & ~stress).sum())
        caught = int((score[stress] > calm[allowed]).sum()) if allowed < len(calm) else int(stress.sum())
        found[year] = (int((before & stress).sum()), caught)
    return found


def rates(alert: Bools, stress: Bools) -> tuple[float, float, float]:
    """Return recall, false-alarm rate and precision; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        caught = (alert & stress).sum()
        return tuple(
            float(np.float64(a) / b) for a, b in ((caught, stress.sum()), ((alert & ~stress).sum(), (~stress).sum()), (caught, alert.sum()))
        )  # type: ignore[return-value]


def interval(panel: Panel, rows: Bools, alert: Bools, against: Bools, seed: int) -> dict[str, tuple[float, float]]:
    """Return 90 % intervals of recall, false-alarm rate, and both less the baseline's, when whole years are drawn anew."""
    years = [year for year in panel.all_years if (rows & (panel.years == year)).any()]
    counts = np.array(
        [
            [
                (panel.stress & of).sum(), (alert & panel.stress & of).sum(), (against & panel.stress & of).sum(),
                (~panel.stress & of).sum(), (alert & ~panel.stress & of).sum(), (against & ~panel.stress & of).sum(),
            ]
            for of in (rows & (panel.years == year) for year in years)
        ],
        np.float64,
    )  # fmt: skip
    drawn = counts[np.random.default_rng(seed).integers(0, len(years), (RESAMPLES, len(years)))].sum(axis=1)
    drawn = drawn[(drawn[:, 0] > 0) & (drawn[:, 3] > 0)]
    recall, before = drawn[:, 1] / drawn[:, 0], drawn[:, 2] / drawn[:, 0]
    false, false_before = drawn[:, 4] / drawn[:, 3], drawn[:, 5] / drawn[:, 3]
    found = {"recall": recall, "false_alarm_rate": false, "recall_gain": recall - before, "false_alarm_change": false - false_before}
    return {name: (float(np.quantile(v, 0.05)), float(np.quantile(v, 0.95))) for name, v in found.items()}


# --- in and out -------------------------------------------------------------------------------------------------------------------


def alerted(found: Sequence[Verdict], level: str) -> Bools:
    """Return which verdicts alert at a level, (n,)."""
    return np.array([v.alerts(level) for v in found], bool)


def without_score(policy: RiskPolicy) -> RiskPolicy:
    """Return the profile with levels no score reaches: what it says without them."""
    given = policy.policy.confirmation
    if given is None:
        raise ValueError(f"profile {policy.profile} does not confirm by score")
    most = sum(term.points[-1] for term in given.terms)
    never = given.model_copy(update={"watch": most + 1, "act": most + 2, "urgent": most + 3})
    return policy.model_copy(update={"policy": policy.policy.model_copy(update={"confirmation": never})})


def panel_of(cases: Sequence[Case], baseline: RiskPolicy, calibrated: RiskPolicy) -> Panel:
    """Return the days as arrays, with the baseline's alerts on them. Raises ValueError for days without label, or an act that needs no score."""
    if any(case.stress is None for case in cases):
        raise ValueError("every day needs target.stress")
    values = np.full((len(cases), len(LADDERS)), np.nan)
    for i, case in enumerate(cases):
        found = features_of(case.regime)
        for j, name in enumerate(LADDERS):
            value = found[name]
            if value is not None:
                values[i, j] = value
    before = verdicts_of(cases, baseline)
    other = verdicts_of(cases, without_score(calibrated))
    if alerted(other, "act").any():
        raise ValueError("some days are at act whatever the score says: the fit cannot hold their rate")
    return Panel(
        cases=tuple(cases),
        values=values,
        years=np.array([int(case.date[:4]) for case in cases], np.int64),
        stress=np.array([bool(case.stress) for case in cases]),
        watch=alerted(before, "watch"),
        act=alerted(before, "act"),
        other=alerted(other, "watch"),
    )


def write_profile(path: Path, confirmation: Confirmation) -> None:
    """Put the terms and levels into a profile's file. The version is bumped by hand."""
    found = json.loads(path.read_text())
    found["policy"]["confirmation"] = _plain(confirmation.model_dump(mode="json"))
    path.write_text(json.dumps(found, indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the calibration and print it; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.canary_calibrate", description="Calibrate and judge the profile canary-calibrated."
    )
    parser.add_argument("panel", type=Path, help="labelled days, JSON lines, plain or .gz")
    parser.add_argument("--profile", type=Path, default=BUILT_IN / f"{PROFILE}.json", help="the profile's file")
    parser.add_argument("--write", action="store_true", help="write the fit into the profile's file")
    parser.add_argument("--check", action="store_true", help="end with 1 when the file differs from the fit")
    parser.add_argument("--seed", type=int, default=1, help="of the resampling of years (the fit has no chance in it)")
    chosen = parser.parse_args(arguments)
    try:
        profile, policies = read_policy(chosen.profile), load_policies()
        given = read_file(chosen.panel)
        if given.bad:
            raise CanaryFileError("\n".join(map(str, given.bad)))
        cases = cases_of(given.rows)
        panel = panel_of(cases, policies[BASELINE], profile)
    except (CanaryFileError, ValueError, PolicyError) as problem:
        print(problem, file=sys.stderr)
        return 2
    console = Console(width=WIDTH)
    fitted = calibrate(panel, panel.all_years)
    confirmation = confirmation_of(fitted)
    line: dict[str, Any] = {"days": len(cases), "stress_days": int(panel.stress.sum()), "choice": fitted.choice._asdict()}
    print_terms(console, confirmation)
    guarded = verdicts_of(cases, policies[GUARDED])
    for scheme in (leave_year_out(panel), walk_forward(panel)):
        profiles = {
            BASELINE: {"watch": panel.watch, "act": panel.act},
            GUARDED: {level: alerted(guarded, level) for level in ("watch", "act")},
            PROFILE: scheme.alerts,
        }
        line[scheme.name.replace(" ", "_")] = summary(console, panel, scheme, profiles, chosen.seed)
    line["on_the_days_of_the_fit"] = {level: rates(alert, panel.stress)[:2] for level, alert in alerts(panel, confirmation).items()}
    same = profile.policy.confirmation == confirmation
    if chosen.write:
        write_profile(chosen.profile, confirmation)
        same = read_policy(chosen.profile).policy.confirmation == confirmation
    line["profile_is_the_fit"] = same
    print(json.dumps(line))
    return 1 if chosen.check and not same else 0


def as_verdicts(panel: Panel, rows: Bools, profile: str, by_level: Mapping[str, Bools]) -> list[Verdict]:
    """Return alerts per level as verdicts on the judged days, for operators.backtest to count."""
    severity = np.full(len(panel.years), "observe", dtype=object)
    for level in LEVELS:
        if level in by_level:
            severity[by_level[level]] = level
    return [
        Verdict(panel.cases[i], profile, "defensive" if severity[i] != "observe" else "", str(severity[i]), "", False, None)
        for i in np.flatnonzero(rows)
    ]


def summary(console: Console, panel: Panel, scheme: Scheme, profiles: Mapping[str, Mapping[str, Bools]], seed: int) -> dict[str, Any]:
    """Print the figures of a scheme and return them for the line of JSON."""
    rows, stress = scheme.rows, panel.stress
    table = Table(title=f"{scheme.name}: {int(rows.sum())} days, {int((rows & stress).sum())} of stress", title_justify="left")
    for title in ("profile", "level", "alerts", "precision", "recall", "false alarms", "recall ahead", "episodes caught", "ahead", "lead"):
        table.add_column(title, justify="left" if title in ("profile", "level") else "right")
    found: dict[str, Any] = {"days": int(rows.sum()), "stress_days": int((rows & stress).sum())}
    ahead = rows & np.array([(case.days_to_stress or 0) >= 1 for case in panel.cases])
    for profile, by_level in profiles.items():
        for figures in figures_of(as_verdicts(panel, rows, profile, by_level), levels=tuple(by_level)):
            early = float(by_level[figures.level][ahead].mean()) if ahead.any() else None
            found[f"{profile} {figures.level}"] = {
                "recall": figures.recall, "false_alarm_rate": figures.false_alarm_rate, "precision": figures.precision,
                "recall_ahead": early, "episodes": figures.episodes, "caught": figures.caught, "ahead": figures.ahead,
            }  # fmt: skip
            table.add_row(
                profile, figures.level, str(figures.alerts), _shown(figures.precision), _shown(figures.recall), _shown(figures.false_alarm_rate),
                _shown(early), f"{figures.caught} of {figures.episodes}", str(figures.ahead), _shown(figures.lead_sessions, "g"),
            )  # fmt: skip
    console.print(table)
    print_years(console, panel, scheme, profiles)
    ours, base = profiles[PROFILE]["act"], profiles[BASELINE]["act"]
    before, allowed, _ = rates(base[rows], stress[rows])
    found["act_90pct_by_year"] = interval(panel, rows, ours, base, seed)
    found["recall_ratio"] = rates(ours[rows], stress[rows])[0] / before if before else None
    found["at_the_baselines_rate"] = at_rate(panel, scheme, allowed)
    found["rate_for_twice_the_recall"] = rate_for(panel, scheme, 2 * before)
    found["within_years"] = within_years(panel, scheme)
    low, high = found["act_90pct_by_year"]["recall_gain"]
    need = found["rate_for_twice_the_recall"]
    console.print(
        f"Recall at act is {_shown(found['recall_ratio'], '.2f')} times the baseline's; gain {low:+.3f} to {high:+.3f} (90 %, years drawn anew). "
        f"Cut afterwards at the baseline's rate: {found['at_the_baselines_rate'][0]:.3f}. "
        f"Twice the baseline's recall would need a false-alarm rate of {_shown(need)}. Stress days caught with the baseline's false alarms in each "
        f"year: {sum(b for _, b in found['within_years'].values())} against {sum(a for a, _ in found['within_years'].values())}.\n"
    )
    return found


def _shown(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def print_terms(console: Console, confirmation: Confirmation) -> None:
    """Print the levels and points of a fit."""
    title = f"score: watch {confirmation.watch:g}, act {confirmation.act:g}, urgent {confirmation.urgent:g}"
    table = Table(title=title, title_justify="left")
    for name in ("figure", "levels", "points"):
        table.add_column(name)
    for term in confirmation.terms:
        sign = "<=" if term.side == "below" else ">="
        table.add_row(term.feature, sign + " " + "  ".join(f"{v:g}" for v in term.levels), "  ".join(f"{v:g}" for v in term.points))
    console.print(table)


def print_years(console: Console, panel: Panel, scheme: Scheme, profiles: Mapping[str, Mapping[str, Bools]]) -> None:
    """Print the alerts at act by year."""
    table = Table(title=f"{scheme.name}: alerts at act on stress days / on calm days", title_justify="left")
    for title in ("year", "stress", "calm", *profiles, "figures of the fit", "act at"):
        table.add_column(title, justify="right")
    for year, fitted in scheme.fits.items():
        of = panel.years == year
        hits = [f"{int((a['act'] & panel.stress & of).sum())} / {int((a['act'] & ~panel.stress & of).sum())}" for a in profiles.values()]
        counts = (str(int((panel.stress & of).sum())), str(int((~panel.stress & of).sum())))
        table.add_row(str(year), *counts, *hits, ", ".join(fitted.points), str(fitted.levels[1]))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
