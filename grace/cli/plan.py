"""The command `plan`: what a configuration costs, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("plan")
def plan_command(
    configfile: Annotated[
        list[Path], typer.Option(help="configuration file; may be repeated: later ones override earlier ones")
    ],
    gpus: Annotated[int, typer.Option(min=1, help="number of GPUs, with one training process each")] = 1,
    gpu_memory: Annotated[float, typer.Option(min=0.1, help="memory of one GPU, GiB")] = 80.0,
    peak_tflops: Annotated[
        float, typer.Option(min=0.001, help="peak of one GPU, TFLOP/s; 312 for an A100 in bf16")
    ] = 312.0,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1, help="share of that peak that training reaches")] = 0.4,
    reserve: Annotated[float, typer.Option(min=0, max=0.9, help="share of the memory to leave free")] = 0.1,
    images: Annotated[
        int | None, typer.Option(min=1, help="number of images, if the configuration does not say")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file to write in addition")] = None,
) -> None:
    """Estimate a configuration's parameters, memory by ZeRO stage, time and disk. Needs no weights, data or network."""
    from grace.plan.show import show
    from grace.plan.stage import Machine, plan
    from grace.system.files import write_json
    from grace.workflow.config import load

    found = plan(load(*configfile), Machine(gpus, gpu_memory, peak_tflops, utilisation, reserve), images)
    if output is not None:
        write_json(output, found)
    show(found)
