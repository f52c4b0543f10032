"""Print the result of `grace.plan.stage.plan` as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def size(count: float) -> str:
    """Bytes in MiB, GiB or TiB with three significant digits."""
    for unit in ("MiB", "GiB"):
        count /= 1024 if unit == "GiB" else 2**20
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1024:.3g} TiB"


def show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    machine = found["machine"]
    for table in (_parameters(found), _memory(found), _time(found), _disk(found)):
        console.print(table)
        console.print()
    asked = ", ".join(f"{stage} {mb:,} MB" for stage, mb in found["main_memory_mb"].items())
    console.print(f"Main memory that jobs request from a scheduler: {asked}.", soft_wrap=True)
    said = found["lengths"]
    console.print(
        f"Sequences: {said['mean']} tokens on average, {said['longest']} at most ({said['source']}); {found['images']:,} images. "
        f"Time: {machine['peak_tflops']:g} TFLOP/s per GPU at {100 * machine['utilisation']:g} % utilisation. "
        f"Memory: {machine['gpu_memory']:g} GiB per GPU, of which {100 * machine['reserve']:g} % are kept free.",
        soft_wrap=True,
    )


def _table(title: str, first: str, *others: str) -> Table:
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    out.add_column(first)
    for name in others:
        out.add_column(name, justify="right")
    return out


def _parameters(found: dict[str, Any]) -> Table:
    out = _table("Parameters", "part", "all", "trained")
    total, trained = found["parameters"]["total"], found["parameters"]["trained"]
    for part in total:
        out.add_row(part.replace("_", " "), f"{total[part]:,}", f"{trained[part]:,}")
    out.add_row("total", f"{sum(total.values()):,}", f"{sum(trained.values()):,}")
    return out


def _memory(found: dict[str, Any]) -> Table:
    samples, machine = found["configured"]["samples"], found["machine"]
    title = f"Memory of each of {machine['gpus']} GPUs, {found['precision']}, micro-batch of {samples}"
    out = _table(
        title, "ZeRO", "weights", "gradi-\nents", "opti-\nmizer", "activa-\ntions", "peak", "host", "largest\nbatch"
    )
    for row in found["memory"]:
        name = f"{row['zero_stage']}{', offload' if row['offload'] else ''}"
        chosen = (
            " <"
            if (row["zero_stage"], row["offload"])
            == (
                found["configured"]["zero_stage"],
                found["configured"]["offload"],
            )
            else ""
        )
        values = [size(row[key]) for key in ("weights", "gradients", "optimizer", "activations", "peak", "host")]
        out.add_row(name + chosen, *values, str(row["micro_batch"]) if row["micro_batch"] else "none")
    return out


def _time(found: dict[str, Any]) -> Table:
    out = _table("Training", "job", "steps", "samples\nper step", "TFLOP\nper step", "samples/s", "hours")
    for job in found["jobs"]:
        name = job["name"] + (f" x {job['trainings']}" if job["trainings"] > 1 else "")
        figures = (
            f"{job['model_flops_per_step'] / 1e12:.3g}",
            f"{job['samples_per_second']:.3g}",
            f"{job['hours']:.3g}",
        )
        out.add_row(name, f"{job['steps']:,}", str(job["samples_per_step"]), *figures)
    out.add_row("total", "", "", "", "", f"{found['hours']:.3g}")
    return out


def _disk(found: dict[str, Any]) -> Table:
    out = _table("Disk", "what", "size")
    for name, count in found["disk"].items():
        out.add_row(name, size(count))
    out.add_row("total", size(sum(found["disk"].values())))
    return out
