"""Tables for the terminal."""

import math
from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from ..analysis import Component, Estimate
from ..analysis import fit as compose_fit
from ..error import AnyError, Error, Region, StoredError, SumError
from ..experiment import Result
from ..fault import PERMANENT, Timing
from ..hardware import PASSES, Array, Layer, Pass
from ..outcome import METRICS, TRAINING_METRIC, Outcome, Trajectory, Verdict, end_of
from ..pvf import Advice, BitErrors, Damage, FeatureMap, FitRow, Row, Vulnerability
from ..validation import Agreement
from ._campaign import percent


def outcome_table(result: Result) -> Table:
    """Tabulate where each run ended as the judge sees it, in per cent, and what its outcome and its class are.

    Two more rows say what it was judged by: the golden runs' mean, and the limits. ``*`` marks what is below its limit;
    only the validation columns decide.
    """
    table = Table(title="accuracy at the end (mean of the last fifth), %; * below the limit")
    table.add_column("run")
    for heading in ("training", "validation, faulty machine", "validation, healthy machine"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    table.add_column("class")
    for name, trajectory in result.trajectories.items():
        outcome = result.outcomes.get(name)
        said = (str(outcome), result.classified(name).name) if outcome else ("golden", "")
        training, faulty, healthy = ends_of(trajectory, outcome)
        table.add_row(name, training, faulty if outcome else "-", healthy, *said)
    limits = limits_of(result.outcomes.values())
    if limits:
        table.add_section()
    for row in limits:
        table.add_row(*row, "", "")
    return table


def ends_of(run: Trajectory | None, outcome: Outcome | None) -> list[str]:
    """Write where a run ended by each metric, the training's first, in per cent; ``*`` marks what is below a limit."""
    metrics = (TRAINING_METRIC, *METRICS)
    if run is None or not run.points:
        return ["-"] * len(metrics)
    below = {verdict.metric for verdict in _verdicts(outcome) if verdict.is_below}
    return [f"{percent(end_of(run, metric))}{' *' if metric in below else ''}" for metric in metrics]


def limits_of(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """Write what runs were judged by, in two rows, the golden runs' mean and the limits; nothing if all crashed."""
    judged = next((outcome for outcome in outcomes if outcome.verdicts), None)
    if judged is None:
        return []
    rows = (("golden mean", "golden"), ("limit", "limit"))
    return [(name, *(percent(getattr(verdict, field)) for verdict in _verdicts(judged))) for name, field in rows]


def _verdicts(outcome: Outcome | None) -> list[Verdict]:
    """List an outcome's verdicts in the order of the columns."""
    return [] if outcome is None or outcome.training is None else [outcome.training, *outcome.verdicts]


def lowering_table(
    layers: Iterable[Layer],
    errors: Sequence[AnyError],
    *,
    array: Array | None = None,
    timing: Timing = PERMANENT,
    step: int | None = None,
) -> Table:
    """Tabulate the errors of a fault, by layer and pass: the elements touched and what part of the whole they are.

    What is touched is an operand, results (of sums that go wrong), or memory. ``seen by`` is the part of the pass's
    results that is computed from the touched elements of an operand, 100 % where all that read them do.

    Args:
        layers: all of the model's.
        errors: of all layers and passes, as if the fault were active.
        array: which sees them as it computes them (`Array.seen`); None: as they are.
        timing: when it is active.
        step: the optimizer step to look at; passes in which the fault is not active then say so. None: whenever it is.
    """
    table = Table()
    for heading in ("layer", "pass", "what"):
        table.add_column(heading)
    for heading in ("elements", "of", "%", "seen by, %"):
        table.add_column(heading, justify="right")
    table.add_column("region")

    def is_active(pass_: Pass, layer: str) -> bool:
        return step is None or timing.active(step=step, pass_=pass_, layer=layer)

    for error in errors:
        if isinstance(error, StoredError):
            state = f" {error.state}" if error.state else ""
            # A memory has no passes; what is stored asks for the first (`injection`).
            found = f"element {error.elements}" if is_active("forward", error.name) else _NOT_ACTIVE
            count = len(error.elements) if found != _NOT_ACTIVE else 0
            table.add_row(error.name, "-", f"{error.store}{state}", f"{count:,}", "", "", "", found)
    in_passes = [error for error in errors if not isinstance(error, StoredError)]
    if errors and not in_passes:
        return table
    for layer in layers:
        for pass_ in PASSES:
            if not is_active(pass_, layer.name):
                table.add_row(layer.name, pass_, "-", "0", "", "", "", _NOT_ACTIVE)
                continue
            of_pass = [error for error in in_passes if error.layer == layer.name and error.pass_ == pass_]
            if not of_pass:
                table.add_row(layer.name, pass_, "-", "0", "", "", "", "not reached")
                continue
            what, total = _whole(layer if array is None else array.seen(layer, pass_), of_pass[0])
            regions = list(dict.fromkeys(_region(error) for error in of_pass))
            touched = sum(region.elements for region in regions)
            more = f" and {len(regions) - 1} more" if len(regions) > 1 else ""
            table.add_row(
                layer.name,
                pass_,
                what,
                f"{touched:,}",
                f"{total:,}",
                f"{100 * touched / total:.2f}",
                _seen_by(layer, of_pass),
                f"{regions[0]}{more}".replace("[", r"\["),
            )
    return table


_NOT_ACTIVE = "not active"


def _seen_by(layer: Layer, of_pass: Sequence[Error | SumError]) -> str:
    """Say which part of a pass's results is computed from the elements; empty for errors in results themselves."""
    seen = {error.results for error in of_pass if isinstance(error, Error) and error.operand != "result"}
    if not seen:
        return ""
    if None in seen:
        return "100"
    elements = sum(results.elements for results in seen if results is not None)
    return f"{100 * elements / math.prod(layer.result(of_pass[0].pass_).values()):.2f}"


def _region(error: Error | SumError) -> Region:
    return error.results if isinstance(error, SumError) else error.region


def _whole(layer: Layer, error: Error | SumError) -> tuple[str, int]:
    """Name what an error is in, and count its elements."""
    if isinstance(error, SumError):
        return f"results, by {error.stage.replace('_', ' ')}", math.prod(layer.result(error.pass_).values())
    if error.operand == "result":
        return "result", math.prod(layer.result(error.pass_).values())
    return error.operand, layer.elements(error.operand)


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """Tabulate how many cases agree in every bit, by source and kind."""
    table = Table()
    for heading in ("source", "kind"):
        table.add_column(heading)
    for heading in ("agree", "of", "%"):
        table.add_column(heading, justify="right")
    rows = [(a.source, a.kind, a.agreeing, a.cases) for a in agreements]
    rows.append(("all", "", sum(a.agreeing for a in agreements), sum(a.cases for a in agreements)))
    for source, kind, agreeing, cases in rows:
        share = f"{100 * agreeing / cases:.2f}" if agreeing < cases else "100"
        table.add_row(source, kind, f"{agreeing:,}", f"{cases:,}", share)
    return table


def vulnerability_table(result: Vulnerability, criterion: str | None = None) -> Table:
    """Tabulate a model's vulnerability by layer and by part of the word, and of the whole model.

    ``PVF``: the probability that an inference fails under a fault. ``critical``: the share of the faults under which at
    least one inference does. Both in per cent, with 95 % intervals unless all faults were tried.
    """
    table = Table(title=f"{criterion or result.criteria[0]}: {result.inferences:,} inferences with each fault")
    table.add_column("")
    for heading in ("faults", "of", "PVF, %", "critical, %"):
        table.add_column(heading, justify="right")
    for by in ("layer", "field", "model"):
        for row in result.rows(by, criterion):
            cells = [_percent(estimate.low, estimate.best, estimate.high) for estimate in (row.pvf, row.critical)]
            table.add_row(row.name, f"{row.faults:,}", f"{row.population:,}", *cells)
        table.add_section()
    return table


def bit_errors_table(result: BitErrors) -> Table:
    """Tabulate how likely inferences fail at a rate of bit errors, in per cent with 95 % intervals."""
    flips = f"{float(result.flips.double().mean()):,.1f} of {result.stored_bits:,} bits a draw"
    table = Table(title=f"bit error rate {result.rate:g}: {len(result.flips):,} draws, {flips}")
    table.add_column("criterion")
    for heading in ("an inference fails, %", f"any of {result.inferences:,} does, %"):
        table.add_column(heading, justify="right")
    for name in result.criteria:
        found = (result.pvf(name), result.critical(name))
        table.add_row(name, *(_percent(one.low, one.best, one.high) for one in found))
    return table


def worst_table(result: Vulnerability, number: int = 10, by: str = "element", criterion: str | None = None) -> Table:
    """Tabulate the parts of a model with the highest PVF, worst first. See `Vulnerability.worst`."""
    drawn = "" if result.exhaustive else "; of the faults drawn: the first owe their place to chance as well"
    table = Table(title=f"{criterion or result.criteria[0]}: the most dangerous, by {by}{drawn}")
    table.add_column(by)
    for heading in ("faults", "of", "PVF, %", "critical, %"):
        table.add_column(heading, justify="right")
    for row in result.worst(number, by, criterion):
        cells = [_percent(estimate.low, estimate.best, estimate.high) for estimate in (row.pvf, row.critical)]
        table.add_row(escape(row.name), f"{row.faults:,}", f"{row.population:,}", *cells)
    return table


def damage_table(damage: Damage) -> Table:
    """Tabulate what a fault does to each feature map of one example, and to the scores."""
    title = f"{damage.fault}: {damage.element} = {damage.stored:.6g} is read as {damage.read:.6g}"
    table = Table(title=escape(title))
    table.add_column("feature map of")
    for heading in ("elements", "channels that differ", "elements that differ, %", "change / map", "INF or NaN"):
        table.add_column(heading, justify="right")
    scores = FeatureMap(name="scores", golden=damage.golden, faulty=damage.faulty)
    for one in (*damage.features, scores):
        different, channels = one.channels
        table.add_row(
            one.name,
            f"{one.golden.numel():,}",
            f"{different:,} of {channels:,}",
            f"{100 * one.changed:.2f}",
            "not finite" if math.isinf(one.relative) else f"{one.relative:.3g}",
            f"{one.nonfinite:,}",
        )
    return table


def fit_table(rows: Sequence[FitRow], *, per_megabit: float, exposure: float) -> Table:
    """Tabulate how often upsets of stored bits make inferences wrong, in FIT with 95 % intervals."""
    table = Table(title=f"FIT at {per_megabit:g} FIT a megabit (2^20 bits), exposure {exposure:g}")
    table.add_column("")
    for heading in ("stored bits", "raw", "a random inference is wrong", "at least one is"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(row.name, f"{row.bits:,}", f"{row.raw:.4g}", _fit(row.inference), _fit(row.any))
    return table


def composition_table(raw_fit: float, components: Sequence[Component]) -> Table:
    """Tabulate the FIT of parts of a chip, and of all together, in FIT with 95 % intervals."""
    table = Table(title=f"FIT of parts, at {raw_fit:g} raw FIT in all")
    table.add_column("part")
    for heading in ("share", "activeness", "not masked", "FIT"):
        table.add_column(heading, justify="right")
    for one in components:
        unmasked = f"{one.unmasked:g}" if isinstance(one.unmasked, float) else f"{one.unmasked.best:.4g}"
        together = _fit(compose_fit(raw_fit, [one]))
        table.add_row(escape(one.name), f"{one.raw_share:g}", f"{one.activeness:g}", unmasked, together)
    table.add_section()
    share = math.fsum(one.raw_share for one in components)
    table.add_row("all", f"{share:g}", "", "", _fit(compose_fit(raw_fit, components)))
    return table


def _fit(found: Estimate) -> str:
    return f"{found.best:.4g}" + ("" if found.low == found.high else f" ({found.low:.3g}..{found.high:.3g})")


_MOST_STEPS = 20


def advice_table(advice: Advice, checked: Row | None = None) -> Table:
    """Tabulate what to protect, the most useful for its bits first, and what is left then.

    ``checked``: what was measured again with all of it protected.
    """
    bits = f"{advice.bits:,} of {advice.stored_bits:,} bits, {100 * advice.bits / advice.stored_bits:.2f} %"
    table = Table(
        title=f"to protect for a PVF of {100 * advice.target:.4g} %: {bits} (at least {advice.at_least:,.0f})"
    )
    table.add_column(advice.by)
    for heading in ("bits", "PVF left, %"):
        table.add_column(heading, justify="right")
    table.add_row("nothing", "0", f"{100 * advice.pvf:.4f}")
    for step in advice.steps[:_MOST_STEPS]:
        table.add_row(escape(step.name), f"{step.bits:,}", f"{100 * step.remaining:.4f}")
    rest = advice.steps[_MOST_STEPS:]
    if rest:
        table.add_row(f"and {len(rest):,} more", f"{sum(s.bits for s in rest):,}", f"{100 * rest[-1].remaining:.4f}")
    if checked is not None:
        table.add_section()
        pvf = checked.pvf
        table.add_row("measured again", f"{advice.bits:,}", _percent(pvf.low, pvf.best, pvf.high))
    return table


def _percent(low: float, best: float, high: float) -> str:
    return f"{100 * best:.3f}" + ("" if low == high else f" ({100 * low:.3f}..{100 * high:.3f})")


def work_line(result: Vulnerability) -> str:
    """Say in one line how the pairs of a fault and an example were decided."""
    work = result.work
    words = [
        f"{getattr(work, name):,} {said}"
        for name, said in (
            ("unchanged", "without a change"),
            ("certified", "proved to keep their class"),
            ("computed", "computed from what changes"),
            ("repeated", "repeated as brute force does"),
            ("whole", "run in whole from the faulty operator on"),
        )
        if getattr(work, name)
    ]
    fallen = f"; no faster way for {', '.join(work.fallbacks)}" if work.fallbacks else ""
    return f"of {work.pairs:,} pairs of a fault and an example: {', '.join(words)}{fallen}"
