"""`fdfed simulate`: a multi-site federation in one process."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fdfed.config import RunPlan, parse, preset, read_toml
from fdfed.errors import InvalidInput


def simulate(
    sites: Annotated[
        str | None, typer.Option(help="Names of the sites, such as tnbc,monuseg.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder per site. Without it: built-in phantoms."),
    ] = None,
    network: Annotated[str | None, typer.Option(help="unet, attention-unet, …")] = None,
    loss: Annotated[str | None, typer.Option(help="seg, fd, fd+exch, con or deeps.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="fdfed, fedavg, fedprox, fedbn, local, pooled, or an installed one."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="paper: the published equations to the letter; fdfed: our defaults."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps per round and site.")] = None,
    size: Annotated[int | None, typer.Option(help="Images are resized to SIZE × SIZE px.")] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="Train on random CROP × CROP px at native resolution; without --size."),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Channels of the network's first level; default 32.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    lr_schedule: Annotated[
        str | None, typer.Option(help="constant, or poly: falling over the rounds.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, splits and batches.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, amp (mixed), or auto: what is faster here, by measurement."),
    ] = None,
    device: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="Where to train.")
    ] = "auto",
    threads: Annotated[
        int,
        typer.Option(min=1, help="CPU threads per operation; results repeat bit for bit with 1."),
    ] = 1,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [run] table; options override it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results; resumes a run found there.")] = (
        Path("runs/simulation")
    ),
    with_local_baseline: Annotated[
        bool,
        typer.Option(
            "--with-local-baseline",
            help="Each site also trains a model alone, and the report says whether joining helped.",
        ),
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard's curves; an optional extra.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and no table.")] = False,
) -> None:
    """Train a federation of several sites in one process, on the code of the deployment.

    Leaves results.json, model.safetensors, rounds.csv and report.html in the folder --out. Without
    --data the sites hold built-in phantoms, and every result says so.
    """
    given = {
        "sites": [name.strip() for name in sites.split(",")] if sites else None,
        "network": network,
        "loss": loss,
        "strategy": strategy,
        "rounds": rounds,
        "steps_per_round": steps,
        "size": size,
        "crop": crop,
        "width": width,
        "batch_size": batch,
        "learning_rate": lr,
        "learning_rate_schedule": lr_schedule,
        "seed": seed,
        "precision": precision,
    }
    options = {key: value for key, value in given.items() if value is not None}
    plan = _plan(config, (preset(method) if method else {}) | options)

    # Slow to import; --help must not wait for them.
    from fdfed.process.kept_memory import keep_freed_memory
    from fdfed.process.lean_monai import spare_optional_parts

    keep_freed_memory()
    spare_optional_parts()
    import torch
    from rich.console import Console

    from fdfed.evaluation.joining import answer
    from fdfed.process.terminal import configure_logging, scores_table
    from fdfed.simulation import Progress
    from fdfed.simulation import simulate as run_simulation
    from fdfed.training.device import resolve_device
    from fdfed_server.observer import Several
    from fdfed_server.progress import ProgressBars
    from fdfed_server.tensorboard import tensorboard_observers

    torch.set_num_threads(threads)
    run = partial(
        run_simulation,
        plan,
        data=data,
        out=out,
        device=resolve_device(device),
        local_baseline=with_local_baseline,
    )
    curves = tensorboard_observers(tensorboard)
    with ExitStack() as stack:
        for writer in curves:
            stack.enter_context(writer)
        if quiet:
            progress = Progress(observer=Several(curves))
            run(progress=progress)
            return
        console = Console()
        configure_logging("text", console=console)
        bars = stack.enter_context(ProgressBars(console))
        progress = Progress(
            observer=Several((bars, *curves)), on_step=bars.step_done, on_load=bars.loaded
        )
        results = run(progress=progress)
    console.print(scores_table(results))
    for site, joining in results.joining.items():
        console.print(answer(site, joining), highlight=False, markup=False)
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True, markup=False)


def _plan(config: Path | None, given: dict[str, Any]) -> RunPlan:
    values: dict[str, Any] = {"sites": ["tnbc", "monuseg"]}
    source = "the options"
    if config is not None:
        values |= _run_table(config)
        source = f"{config} with the options"
    return parse(RunPlan, values | given, source=source)


def _run_table(config: Path) -> dict[str, Any]:
    """The `[run]` table of a file, which may be a coordinator's federation.toml."""
    tables = read_toml(config)
    odd = sorted(set(tables) - {"run", "server"})
    table = tables.get("run", {})
    if odd or not isinstance(table, dict):
        raise InvalidInput(
            f"{config} has {', '.join(odd) or 'a run that is no table'}; the settings of a "
            "simulation belong into its [run] table"
        )
    return table
