"""The command doctor: what this machine has for builds, and what is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from figureground.cli.arguments import Commands
from figureground.core.errors import join_names
from figureground.core.extras import install_extra
from figureground.core.terminal import print_json, print_result


def add_doctor(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "doctor", parents=[common], help="report this machine's devices, memory, disk space, packages, models and "
        "access to the Hub",
        description="Reports which devices and dtypes this machine has, how much memory and disk are free, which "
        "packages are installed, which models are in the Hub's cache, whether the Hub can be reached, and what is "
        "wrong. Downloads and changes nothing.",
        epilog="exit codes: 0 builds can run, 1 a problem prevents builds, 2 wrong use",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--timeout", type=_parse_seconds, default=3.0, metavar="S", help="seconds to wait for the Hub's answer (3)"
    )
    parser.set_defaults(run=_doctor)


def _parse_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds; give a number above 0 and at most 600")
    return value


def _doctor(options: argparse.Namespace) -> int:
    from figureground.models.machine import examine

    report = examine(options.timeout)
    if options.json:
        print_json(report)
    else:
        print_result("\n".join(describe(report)))
    return int(any(problem["breaks"] for problem in report["problems"]))


def describe(report: Mapping[str, Any]) -> list[str]:
    """Return lines for people.

    Args:
        report: Result of `models.machine.examine`.
    """
    from figureground.methods.forecast import human_bytes

    memory, hub = report["memory"], report["hub"]
    sizes = [f"{human_bytes(memory[name])} {name}" for name in ("total", "available") if memory[name] is not None]
    versions = [f"{name} {version}" for name, version in report["versions"].items() if version is not None]
    lines = [
        f"figureground {report['version'] or '(not installed)'}, Python {report['python']}, {report['system']}",
        "",
        f"cores      {report['cores']}, {report['cpu']}",
        f"memory     {', '.join(sizes) or 'unknown'}",
    ]
    for name, disk in report["disk"].items():
        lines.append(f"disk       {human_bytes(disk['free'])} free in {disk['path']} ({_DISK_USES[name]})")
    for device in report["devices"]:
        free = f", {human_bytes(device['free'])} of {human_bytes(device['memory'])} free" if "free" in device else ""
        lines.append(f"device     {device['name']}: {device['kind']}; {', '.join(device['dtypes'])}{free}")
    lines.append(f"packages   {', '.join(versions)}")
    for name, extra in report["extras"].items():
        state = "installed" if extra["installed"] else f"missing: {install_extra(name)}"
        lines.append(f"extra      {name} ({extra['for']}): {state}")
    lines.append(f"bundled    the pocket model: {join_names(report['bundled']) or 'nothing'}")
    lines += [
        f"cached     {model['id']} at {model['revision'][:12]}, {human_bytes(model['bytes'])}"
        for model in report["models"]
    ] or ["cached     no model in the Hub's cache"]
    lines.append(f"Hub        {'reachable' if hub['reachable'] else hub['reason']}")
    lines += ["", *(_format_problem(problem) for problem in report["problems"])] if report["problems"] else []
    breaking = sum(problem["breaks"] for problem in report["problems"])
    return [*lines, "", f"{breaking} of these break builds." if breaking else "Builds with the pocket model can run."]


_DISK_USES = {"here": "this directory", "cache": "the Hub's cache", "temporary": "temporary files"}


def _format_problem(problem: Mapping[str, Any]) -> str:
    return f"{'problem' if problem['breaks'] else 'note':<10} {problem['what']} {problem['fix']}"
