"""What a fault corrupts, and whether that is right."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .._invalid import InvalidInput
from ._options import (
    DEFAULT_FAULT,
    ArrayName,
    BatchSize,
    Data,
    FaultText,
    GradWeight,
    ImageMode,
    Model,
    Quiet,
    Width,
    array_of,
    print_table,
    progress_bars,
)


def lower(
    data: Data = "cluttered_digits",
    model: Model = None,
    width: Width = None,
    batch_size: BatchSize = None,
    array: ArrayName = "nvdla-small",
    fault: FaultText = DEFAULT_FAULT,
    grad_weight: GradWeight = None,
    image_mode: ImageMode = None,
    swizzle: Annotated[str | None, typer.Option(help="none, step, stripe, layer, random or random:SEED.")] = None,
    step: Annotated[
        int | None,
        typer.Option(min=0, help="The optimizer step, for swizzles that move; default: 0, or the transient's own."),
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Draw one layer to this stem: .png, .svg and .html.")] = None,
    layer: Annotated[str | None, typer.Option(help="Which layer to draw; default: the first that is reached.")] = None,
) -> None:
    """Show which elements of which operands a fault corrupts, per layer and pass, without running anything.

    Also what part of the results sees them. Of a transient, and of any fault if --step is given, only where it is
    active then.
    """
    from ..error import lower as lower_fault
    from ..experiment import check_layers
    from ..fault import Transient, parse_fault
    from ..injection import inject, trace
    from ..report import lowering_chart, lowering_table, write_drawing
    from ..tasks import DATA_SETS, MODEL_FORMAT, build_model, recipe_for

    recipe = recipe_for(data, model=model, width=width, batch_size=batch_size)
    network = build_model(recipe.model, **DATA_SETS[data].sizes, width=recipe.width)
    layers = trace(network, DATA_SETS[data].zeros(recipe.batch_size))
    place = array_of(array, grad_weight=grad_weight, image_mode=image_mode, swizzle=swizzle)
    parsed = parse_fault(fault)
    parsed.check(place, MODEL_FORMAT)  # says so if a bit is outside
    inject(network, parsed, array=place)  # says so if a memory's tensor is not there; nothing is injected
    check_layers(parsed, layers)
    at = step if step is not None else parsed.timing.step if isinstance(parsed.timing, Transient) else None
    errors = lower_fault(parsed, place, layers, step=at or 0)
    print(f"{parsed} on {array}, {recipe.model}, batch {recipe.batch_size}")
    shown = [layer.as_matmul() for layer in layers] if place.im2col else layers
    print_table(lowering_table(shown, errors, array=place, timing=parsed.timing, step=at))
    if draw is not None:
        reached = {getattr(error, "layer", None) for error in errors}
        chosen = next((one for one in shown if one.name == layer or (layer is None and one.name in reached)), None)
        if chosen is None:
            names = ", ".join(one.name for one in shown)
            raise InvalidInput(f"layer={layer!r} is not reached or not there; choose one of {names}")
        png, svg, html = write_drawing(lowering_chart(place, parsed, chosen, errors), draw)
        print(f"drawing: {png}, {svg} (interactive: {html})")


def validate(
    array: Annotated[str | None, typer.Argument(help="Such as nvdla-small or systolic-os-4x4.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="A folder of RTL vectors, in place of an array.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every array that has a name and a reference, a row each.")
    ] = False,
    cases: Annotated[int, typer.Option(help="Random layers x faults x passes.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Decides the cases.")] = 0,
    image_mode: ImageMode = None,
    swizzle: Annotated[str | None, typer.Option(help="Of the array.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check lowering and injection: against an array's slow reference, or against vectors of RTL simulation.

    Prints how many cases agree in every bit, by site or, with --all, by array; exit status 0 only if all do, else 1.
    """
    from ..hardware import ARRAYS
    from ..report import agreement_table
    from ..validation import check_array, check_vectors, summed_up

    if [array is not None, vectors is not None, every].count(True) != 1:
        raise InvalidInput("name one: an array, such as nvdla-small, or --vectors FOLDER, or --all")
    with progress_bars(quiet=quiet) as report:
        if vectors is not None:
            agreements = rows = check_vectors(vectors, report=partial(report, "archives"))
        elif array is not None:
            place = array_of(array, image_mode=image_mode, swizzle=swizzle)
            agreements = rows = check_array(place, cases=cases, seed=seed, report=partial(report, "cases"))
        else:
            agreements = rows = ()
            for name in ARRAYS:
                place = array_of(name, image_mode=image_mode, swizzle=swizzle)
                if place.no_places:
                    continue
                found = check_array(place, cases=cases, seed=seed, report=partial(report, name))
                agreements += found
                rows += (summed_up(found, source=name),)
    print_table(agreement_table(rows))
    failed = [agreement for agreement in agreements if not agreement.is_full]
    for agreement in failed:
        print(f"{agreement.source}, {agreement.kind}: {agreement.example}")
    if failed:
        raise typer.Exit(1)
