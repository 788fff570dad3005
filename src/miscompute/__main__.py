"""The command line: reads arguments, calls the library, prints. Heavy imports wait until a command needs them."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ._invalid import InvalidInput

# What click raises for arguments it cannot use. Where typer has click has changed between its versions.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What a hardware fault in an AI accelerator does to training and to the trained model.",
)

_DEFAULT_FAULT = "weight[0,0] bit 28 stuck-at 0"

Model = Annotated[
    str | None,
    typer.Option(
        help="alexnet, lenet5, resnet18, resnet18_nobn, resnet20, mlp or gpt; default: what the data set's recipe says."
    ),
]
Width = Annotated[
    float | None,
    typer.Option(help="Scales the model's hidden channels; default: the recipe's, or 1 for another model."),
]
ArrayName = Annotated[
    str,
    typer.Option(
        "--array",
        help="nvdla-small, nvdla-large, systolic-ws, systolic-os, simd, ...; of any size: nvdla-16x4, systolic-ws-8x8.",
    ),
]
FaultText = Annotated[str, typer.Option("--fault", help="Such as 'weight[0,0] bit 28 stuck-at 0'.")]
GradWeight = Annotated[str | None, typer.Option(help="How weight gradients lie on NVDLA's core: A (default) or B.")]
ImageMode = Annotated[
    str | None, typer.Option(help="Which layer NVDLA computes in image mode: none (default) or first.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="A state_dict that torch.save wrote; default: trained by the data's recipe first."),
]
Data = Annotated[str, typer.Option(help="cluttered_digits, cifar10 or tiny_shakespeare.")]


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(f"miscompute {version('miscompute')}")
        raise typer.Exit
    return wanted


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which, and end.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


@app.command()
def train(
    data: Data = "cluttered_digits",
    model: Model = None,
    width: Width = None,
    array: ArrayName = "nvdla-small",
    fault: FaultText = _DEFAULT_FAULT,
    grad_weight: GradWeight = None,
    image_mode: ImageMode = None,
    swizzle: Annotated[
        list[str] | None, typer.Option(help="A swizzle to run with the fault; may be repeated; 'none' for none.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order and augmentation.")] = None,
    golden_seeds: Annotated[int, typer.Option(help="How many fault-free runs give the spread.")] = 5,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of any optimizer.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or one-cycle.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images, or windows of text, a step.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    validation_examples: Annotated[int | None, typer.Option(help="How many an evaluation takes; default: all.")] = None,
    data_folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: a name under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what the run directory holds.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: one a processor.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars into the folder's tensorboard too; needs the extra.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train with a fault and without, and judge what the fault did.

    Golden runs of several seeds, the faulty run and the faulty run with channel swizzling, each evaluated on the faulty
    and on a healthy machine; prints a table and draws a figure.
    """
    from .experiment import Experiment
    from .experiment import train as run_experiment
    from .fault import parse_fault
    from .report import curves_chart, outcome_table, write_chart
    from .tasks import recipe_for

    recipe = recipe_for(
        data,
        model=model,
        width=width,
        seed=seed,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        batch_size=batch_size,
        steps=steps,
        evaluate_every=evaluate_every,
        validation_examples=validation_examples,
    )
    if momentum is not None and recipe.optimizer != "sgd":
        raise InvalidInput(
            f"momentum={momentum} is of sgd, not of {recipe.optimizer}; leave it out or add --optimizer sgd"
        )
    experiment = Experiment(
        recipe=recipe,
        array=_array(array, grad_weight=grad_weight, image_mode=image_mode),
        fault=parse_fault(fault),
        golden_seeds=golden_seeds,
        swizzles=tuple(name for name in swizzle or ["step"] if name != "none"),
    )
    if out is None:
        usual = recipe_for(data, model=recipe.model, seed=recipe.seed)
        names = f"{recipe.model}-{data}-{array}-{fault}-seed-{recipe.seed}"
        given = {
            "grad_weight": grad_weight,
            "image_mode": image_mode,
            "golden_seeds": golden_seeds,
            "swizzles": experiment.swizzles,
        }
        defaults = {"grad_weight": None, "image_mode": None, "golden_seeds": 5, "swizzles": ("step",)}
        out = Path("runs") / _folder_name(names, vars(recipe) | given, vars(usual) | defaults)
    result = run_experiment(
        experiment, out, resume=resume, data_folder=data_folder, workers=workers, tensorboard=tensorboard, quiet=quiet
    )
    _print_table(outcome_table(result))
    png, html = write_chart(curves_chart(result), out / "curves")
    print(f"figure: {png} (interactive: {html})\nrun directory: {out}")


@app.command()
def lower(
    data: Data = "cluttered_digits",
    model: Model = None,
    width: Width = None,
    batch_size: Annotated[int | None, typer.Option(help="Images, or windows of text, a step.")] = None,
    array: ArrayName = "nvdla-small",
    fault: FaultText = _DEFAULT_FAULT,
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
    from .error import lower as lower_fault
    from .experiment import check_layers
    from .fault import Transient, parse_fault
    from .injection import inject, trace
    from .report import lowering_chart, lowering_table, write_drawing
    from .tasks import DATA_SETS, MODEL_FORMAT, build_model, recipe_for

    recipe = recipe_for(data, model=model, width=width, batch_size=batch_size)
    network = build_model(recipe.model, **DATA_SETS[data].sizes, width=recipe.width)
    layers = trace(network, DATA_SETS[data].zeros(recipe.batch_size))
    place = _array(array, grad_weight=grad_weight, image_mode=image_mode, swizzle=swizzle)
    parsed = parse_fault(fault)
    parsed.check(place, MODEL_FORMAT)  # says so if a bit is outside
    inject(network, parsed, array=place)  # says so if a memory's tensor is not there; nothing is injected
    check_layers(parsed, layers)
    at = step if step is not None else parsed.timing.step if isinstance(parsed.timing, Transient) else None
    errors = lower_fault(parsed, place, layers, step=at or 0)
    print(f"{parsed} on {array}, {recipe.model}, batch {recipe.batch_size}")
    shown = [layer.as_matmul() for layer in layers] if place.im2col else layers
    _print_table(lowering_table(shown, errors, array=place, timing=parsed.timing, step=at))
    if draw is not None:
        reached = {getattr(error, "layer", None) for error in errors}
        chosen = next((one for one in shown if one.name == layer or (layer is None and one.name in reached)), None)
        if chosen is None:
            names = ", ".join(one.name for one in shown)
            raise InvalidInput(f"layer={layer!r} is not reached or not there; choose one of {names}")
        png, svg, html = write_drawing(lowering_chart(place, parsed, chosen, errors), draw)
        print(f"drawing: {png}, {svg} (interactive: {html})")


@app.command()
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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Check lowering and injection: against an array's slow reference, or against vectors of RTL simulation.

    Prints how many cases agree in every bit, by site or, with --all, by array; exit status 0 only if all do, else 1.
    """
    from .hardware import ARRAYS
    from .report import agreement_table
    from .validation import check_array, check_vectors, summed_up

    if [array is not None, vectors is not None, every].count(True) != 1:
        raise InvalidInput("name one: an array, such as nvdla-small, or --vectors FOLDER, or --all")
    with _progress(quiet=quiet) as report:
        if vectors is not None:
            agreements = rows = check_vectors(vectors, report=partial(report, "archives"))
        elif array is not None:
            place = _array(array, image_mode=image_mode, swizzle=swizzle)
            agreements = rows = check_array(place, cases=cases, seed=seed, report=partial(report, "cases"))
        else:
            agreements = rows = ()
            for name in ARRAYS:
                place = _array(name, image_mode=image_mode, swizzle=swizzle)
                if place.no_places:
                    continue
                found = check_array(place, cases=cases, seed=seed, report=partial(report, name))
                agreements += found
                rows += (summed_up(found, source=name),)
    _print_table(agreement_table(rows))
    failed = [agreement for agreement in agreements if not agreement.is_full]
    for agreement in failed:
        print(f"{agreement.source}, {agreement.kind}: {agreement.example}")
    if failed:
        raise typer.Exit(1)


@app.command()
def campaign(
    spec: Annotated[Path | None, typer.Argument(help="A TOML file; see campaigns/ and docs/campaigns.md.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of store and golden runs; goes on if it is there.")] = None,
    engine: Annotated[str, typer.Option(help="pool (processes here) or ray.")] = "pool",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once; default: one a processor.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Axes to tabulate by; default: bit and pass.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a trial counts as hung.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trials again.")] = False,
    shortcuts: Annotated[bool, typer.Option(help="Share with the golden run what is the same in both.")] = True,
    data_folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of specs, for editors.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write scalars into the folder's tensorboard too; needs the extra.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Try many faults of a population, each in a training of its own, and tabulate the rates of outcomes.

    Ctrl-C is safe: the same command goes on.
    """
    from .campaigns import schema as schema_of_specs

    if schema:
        print(json.dumps(schema_of_specs(), indent=1))
        return
    if spec is None or out is None:
        raise InvalidInput("name a spec and a folder: miscompute campaign SPEC.toml --out DIR")
    from .campaigns import campaign as carry_out
    from .campaigns import campaign_of
    from .report import rates_by_table, rates_table

    wanted = campaign_of(spec)
    axes = by if by is not None else [axis for axis in ("bit", "pass") if axis in wanted.space.axes]
    for axis in axes:
        if axis not in wanted.space.axes:
            raise InvalidInput(
                f"by={axis!r} is no axis of the population; choose one of {', '.join(wanted.space.axes)}"
            )
    try:
        result = carry_out(
            wanted,
            out,
            engine=engine,
            workers=workers,
            timeout_seconds=timeout,
            data_folder=data_folder,
            shortcuts=shortcuts,
            retry_failed=retry_failed,
            tensorboard=tensorboard,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        print(f"interrupted: what is done is in {out}; the same command goes on", file=sys.stderr)
        raise
    _print_table(rates_table(result))
    for axis in axes:
        _print_table(rates_by_table(result, axis))
    print(f"store: {result.store}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What `train` or `campaign` wrote with --out.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page and its figures; default: `report` in it.")
    ] = None,
) -> None:
    """Write one page of a run directory or a campaign, complete or not: rates, curves of any trial, how it was made.

    It needs no network and no other file; the main figures are beside it as PNG and SVG.
    """
    from .report import write_report

    page, *figures = write_report(folder, out)
    print(f"page: {page}")
    for path in figures:
        print(f"beside it: {path}")


store = typer.Typer(help="What campaigns have found: merge, export, show and replay trials.")
app.add_typer(store, name="store")
Folder = Annotated[Path, typer.Argument(help="A campaign's folder.")]
Trial = Annotated[str, typer.Argument(help="Its place in the population, its key, or the key's beginning.")]


@store.command()
def merge(
    into: Annotated[Path, typer.Argument(help="The folder of the campaign to add to; made if it is not there.")],
    parts: Annotated[list[Path], typer.Argument(help="Folders of the same campaign, from other machines say.")],
) -> None:
    """Add trials of other folders of the same campaign."""
    from contextlib import ExitStack

    from .campaigns import Store
    from .campaigns import merge as merge_stores
    from .experiment import usable

    with ExitStack() as stack:
        sources = [stack.enter_context(Store(part / _STORE, read_only=True)) for part in parts]
        stack.enter_context(usable(into))
        target = stack.enter_context(Store(into / _STORE, axes=sources[0].axes))
        new = merge_stores(target, sources)
        print(f"{new:,} new trials, {target.trials():,} in all: {target.path}")


@store.command()
def export(folder: Folder, file: Annotated[Path, typer.Argument(help="To write; ends in .parquet or .csv.")]) -> None:
    """Write the trials as a table, without curves."""
    from .campaigns import Store
    from .campaigns import export as export_store

    with Store(folder / _STORE, read_only=True) as opened:
        print(f"{export_store(opened, file):,} trials: {file}")


@store.command()
def show(folder: Folder, trial: Trial) -> None:
    """Print all that is recorded of a trial."""
    from .campaigns import Store
    from .report import record_table

    with Store(folder / _STORE, read_only=True) as opened:
        for table in record_table(opened.find(trial)):
            _print_table(table)


@store.command()
def replay(
    folder: Folder,
    trial: Trial,
    every: Annotated[int, typer.Option(min=1, help="Steps between evaluations.")] = 1,
    data_folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
) -> None:
    """Carry a trial out again, from its record alone, with a finer curve; exit status 1 if it comes out otherwise."""
    import torch

    from .campaigns import Store, campaign_of
    from .campaigns import replay as replay_trial

    torch.set_num_threads(1)  # as in the campaign
    with Store(folder / _STORE, read_only=True) as opened:
        campaign = campaign_of(opened.about("campaign"))
        place = opened.find(trial).place
        into = folder / "replays" / f"{place}-every-{every}"
        found = replay_trial(campaign, opened, trial, into, every=every, data_folder=data_folder)
    print(f"{found.record.fault}: {found.record.outcome}\ncurve: {into / 'trajectory.json'}")
    if found.difference:
        print(f"not as recorded: {found.difference}")
        raise typer.Exit(1)
    print("equal to the record, bit for bit")


_STORE = "store.sqlite"


@app.command()
def vulnerability(
    model: Annotated[
        str, typer.Option(help="alexnet, lenet5, resnet18, resnet18_nobn, resnet20, mlp or gpt.")
    ] = "lenet5",
    data: Data = "cluttered_digits",
    width: Width = None,
    checkpoint: Checkpoint = None,
    steps: Annotated[int | None, typer.Option(help="Of the training without a checkpoint.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides that training, and which faults are drawn.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A layer or parameter; may be repeated; default: all of the model.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="flip (default), stuck-at-0, stuck-at-1, burst:3, random-bits:2; may be repeated."),
    ] = None,
    number_format: Annotated[
        str, typer.Option("--format", help="fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, int8:max or int16:max.")
    ] = "fp32",
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            help="top1, label, top5, nonfinite, output, loss or perplexity; may be repeated; default: top1 and label."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many faults to draw.")] = 1000,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="All faults instead.")] = False,
    images: Annotated[int | None, typer.Option(help="Of the validation data; default: all.")] = None,
    neurons: Annotated[
        bool, typer.Option("--neurons", help="Faults in what the layers give, not in parameters; each is run whole.")
    ] = False,
    bit_error_rate: Annotated[
        float | None,
        typer.Option(help="Every stored bit is wrong with this probability; --trials draws, each is run whole."),
    ] = None,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Write every fault that was tried: to .parquet or .csv.")
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="How many of the most dangerous parameters (channels, of drawn faults) to show.")
    ] = 0,
    protect: Annotated[
        float | None,
        typer.Option(help="Say what to protect for a PVF of so many per cent, and measure again with that protected."),
    ] = None,
    fit_per_megabit: Annotated[
        float | None, typer.Option(help="Raw upsets of 2^20 stored bits in 10^9 hours: gives the model's FIT.")
    ] = None,
    exposure: Annotated[float, typer.Option(help="Share of upsets that are read before they are overwritten.")] = 1.0,
    protect_by: Annotated[str, typer.Option(help="bit (of a parameter), channel, word or cell.")] = "bit",
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Draw to this stem: STEM-bits, STEM-worst (and STEM-protect), as .png and, interactive, as .html."
        ),
    ] = None,
    data_folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory, where it continues; default: a name under runs/.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a processor.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Count how many inferences each fault of a model's parameters makes fail: its PVF, by layer and part of the word.

    A model without a checkpoint is trained first and kept in the run directory. Interrupted, the same command
    continues.
    """
    import os

    from .experiment import usable
    from .pvf import advise, bit_errors, measure_task, model_fit, neuron_vulnerability, task_examples, units_for
    from .report import (
        advice_chart,
        advice_table,
        bit_errors_table,
        bits_chart,
        fit_table,
        vulnerability_table,
        work_line,
        worst_chart,
        worst_table,
        write_chart,
    )
    from .tasks import recipe_for

    recipe = recipe_for(data, model=model, width=width, seed=seed, steps=steps)
    if out is None:
        usual = recipe_for(data, model=model)
        given: dict[str, Any] = {
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "layer": layer,
            "kind": kind,
        }
        given |= {
            "format": number_format,
            "criterion": criterion,
            "trials": None if exhaustive else trials,
            "images": images,
        }
        none = dict.fromkeys(given)
        out = Path("runs") / _folder_name(f"pvf-{model}-{data}", vars(recipe) | given, vars(usual) | none)
    if export_to is not None and export_to.suffix not in (".parquet", ".csv"):
        raise InvalidInput(f"export={str(export_to)!r} must end in .parquet or .csv")
    for name, is_given in (("exhaustive", exhaustive), ("protect", protect is not None), ("kind", kind is not None)):
        if is_given and bit_error_rate is not None:
            raise InvalidInput(f"{name} is of single faults, not of a bit error rate; leave one of them out")
    if protect is not None and neurons:
        raise InvalidInput("protect is of stored parameters, not of neurons; leave one of them out")
    trials_or_all = None if exhaustive else trials
    if bit_error_rate is not None or neurons:
        with _progress(quiet=quiet) as report:
            examples = task_examples(
                recipe, out, checkpoint=checkpoint, images=images, data_folder=data_folder, report=report
            )
            options: dict[str, Any] = {"format": number_format, "criteria": criterion, "seed": recipe.seed}
    if bit_error_rate is not None:
        with _progress(quiet=quiet) as report:
            options |= {"parameters": layer, "report": partial(report, "draws")}
            _print_table(bit_errors_table(bit_errors(*examples, rate=bit_error_rate, trials=trials, **options)))
        return
    advice, checked = None, None
    with _progress(quiet=quiet) as report:
        measure = partial(
            measure_task,
            recipe,
            out,
            checkpoint=checkpoint,
            parameters=layer,
            kinds=tuple(kind or ("flip",)),
            format=number_format,
            criteria=criterion,
            trials=trials_or_all,
            images=images,
            data_folder=data_folder,
            workers=workers or os.cpu_count() or 1,
        )
        if neurons:
            options |= {"layers": layer, "kinds": tuple(kind or ("flip",)), "trials": trials_or_all}
            result = neuron_vulnerability(*examples, **options, report=partial(report, "faults x examples"))
        else:
            result = measure(report=report)
        if protect is not None:
            advice = advise(result, protect / 100, by=protect_by)
            # Other faults than those that were drawn: what was chosen for these would look better than it is.
            again = measure(draw_seed=recipe.seed + 1, protection=advice.protection, report=partial(_again, report))
            (checked,) = again.rows("model")
    for name in result.criteria:
        _print_table(vulnerability_table(result, name))
    if export_to is not None:
        with usable(export_to.parent):
            frame = result.frame()
            frame.write_parquet(export_to) if export_to.suffix == ".parquet" else frame.write_csv(export_to)
        print(f"{len(frame):,} faults: {export_to}")
    by = "element" if result.exhaustive else "channel"
    if worst:
        _print_table(worst_table(result, worst, by))
    if fit_per_megabit is not None:
        rows = [
            one for by in ("layer", "model") for one in model_fit(result, fit_per_megabit, exposure=exposure, by=by)
        ]
        _print_table(fit_table(rows, per_megabit=fit_per_megabit, exposure=exposure))
    charts = {"bits": bits_chart(result), "worst": worst_chart(result, worst or 20, by)} if draw is not None else {}
    if advice is not None:
        _print_table(advice_table(advice, checked))
        if draw is not None:
            others = [advise(result, advice.target, by=unit) for unit in units_for(result) if unit != protect_by]
            charts["protect"] = advice_chart([advice, *others], checked)
    for name, chart in charts.items():
        assert draw is not None
        png, html = write_chart(chart, draw.with_name(f"{draw.name}-{name}"))
        print(f"figure: {png} (interactive: {html})")
    accuracy = "" if result.accuracy is None else f"; without a fault {100 * result.accuracy:.2f} % are right"
    print(f"{work_line(result)}{accuracy}\nrun directory: {out}")


@app.command()
def fit(
    raw_fit: Annotated[float, typer.Option(help="Of the whole chip, or of all its flip-flops: upsets in 10^9 hours.")],
    part: Annotated[
        list[str],
        typer.Option(
            help="NAME=SHARE,ACTIVENESS,NOT_MASKED, such as 'neuron=0.272,0.27,0.0201'; measured, as events/trials: "
            "'control=0.081,0.32,182/2500'; may be repeated."
        ),
    ],
) -> None:
    """Compose a chip's FIT from its parts: raw FIT x share of the storage x activeness x P(not masked), with intervals.

    That is FIdelity's formula. Of a model's stored parameters, 'vulnerability --fit-per-megabit' measures and composes.
    """
    from .report import composition_table

    _print_table(composition_table(raw_fit, [_component(text) for text in part]))


def _component(text: str) -> Any:
    from .analysis import Component, rate

    name, _, numbers = text.rpartition("=")
    words = numbers.split(",")
    try:
        share, activeness = map(float, words[:2])
        (unmasked,) = words[2:]
        events, slash, trials = unmasked.partition("/")
        found = rate(int(events), int(trials)) if slash else float(unmasked)
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(
            f"part={text!r} must be NAME=SHARE,ACTIVENESS,NOT_MASKED, such as neuron=0.272,0.27,0.0201 or "
            "control=0.081,0.32,182/2500"
        ) from error
    return Component(name=name or f"part {numbers}", raw_share=share, activeness=activeness, unmasked=found)


def _again(report: Callable[[str, int, int], None], name: str, done: int, total: int) -> None:
    report(f"{name}, protected", done, total)


@app.command()
def damage(
    model: Annotated[
        str, typer.Option(help="alexnet, lenet5, resnet18, resnet18_nobn, resnet20, mlp or gpt.")
    ] = "lenet5",
    data: Data = "cluttered_digits",
    width: Width = None,
    checkpoint: Checkpoint = None,
    steps: Annotated[int | None, typer.Option(help="Of the training without a checkpoint.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides that training.")] = None,
    fault: Annotated[
        str | None,
        typer.Option(
            help="In a parameter, 'weight-memory[conv1.weight,0] bit 30 flip' say; default: that, of the first."
        ),
    ] = None,
    number_format: Annotated[str, typer.Option("--format", help="fp32, bf16, fp16, int8:max, ...")] = "fp32",
    image: Annotated[int, typer.Option(min=0, help="Which of the validation data.")] = 0,
    draw: Annotated[Path, typer.Option(help="Stem of the picture: .png and, interactive, .html.")] = Path("damage"),
    data_folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the model is trained; default: a name under runs/.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Show what one faulty parameter does to one image: each feature map that follows, and the scores.

    A model without a checkpoint is trained first and kept in the run directory.
    """
    from .fault import parse_fault
    from .pvf import damage as measure_damage
    from .pvf import task_model
    from .report import damage_chart, damage_table, write_chart
    from .tasks import load_data, recipe_for

    recipe = recipe_for(data, model=model, width=width, seed=seed, steps=steps)
    if out is None:
        out = Path("runs") / _folder_name(f"{model}-{data}", vars(recipe), vars(recipe_for(data, model=model)))
    parsed = None if fault is None else parse_fault(fault)
    examples = load_data(data, folder=data_folder)
    held = len(examples.validation_images)
    if image >= held:
        raise InvalidInput(f"image={image} is not there; {data} has {held} (0..{held - 1})")
    with _progress(quiet=quiet) as report:
        network = task_model(recipe, examples, out, checkpoint=checkpoint, report=report)
    first = next(name for name, _ in network.named_parameters())
    stored = examples.validation_images[image]
    found = measure_damage(
        network,
        examples.normalised(stored[None])[0],
        parsed or parse_fault(f"weight-memory[{first},0] bit 30 flip"),
        format=number_format,
    )
    _print_table(damage_table(found))
    chart = damage_chart(found, classes=examples.classes, example=stored)
    png, html = write_chart(chart, draw, scale=1.0)  # so many pictures are large enough
    print(f"figure: {png} (interactive: {html})")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show bars with the time left; inside, tell it what is done, how much, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:

        def report(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done, total=total)

        yield report


def _print_table(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a file or a pipe, a row is a line


def _folder_name(names: str, settings: dict[str, Any], usual: dict[str, Any]) -> str:
    """Name a run directory: what it is about, and a short hash of the settings that are not the usual ones, if any."""
    words = re.sub(r"[^a-z0-9]+", "-", names.lower())
    others = {name: value for name, value in settings.items() if value != usual[name]}
    return words + (f"-{sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6]}" if others else "")


def _array(name: str, **options: Any) -> Any:
    """Build an array by name with the options that were given."""
    from .hardware import array_named

    return array_named(name, **{option: value for option, value in options.items() if value is not None})


def main() -> None:
    """Run the command line: exit status 2 and one line for bad input, 130 after Ctrl-C."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))  # None at a command's end, 130 after Ctrl-C
    except InvalidInput as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(_usage(error))


def _usage(error: Any) -> str:
    """Say what click found wrong with the arguments, the value included, and where to read on."""
    problem: str = error.format_message()
    reasons: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, which checks the values
    if reasons and getattr(error, "param", None) is not None:
        problem = f"{error.param.opts[0]}={reasons[0]['input']!r}: {error.message}"
    command = error.ctx.command_path if error.ctx else "miscompute"
    return f"{problem[:1].lower()}{problem[1:].rstrip('.')}; see '{command} --help'"


def _refuse(message: str) -> NoReturn:
    print(f"miscompute: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
