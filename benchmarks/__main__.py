"""Command line: `python -m benchmarks [workload ...]`, `... charts`, `... moving`; see README.md beside it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.report import Results, from_json, machine, noise, table, write_json
from benchmarks.runner import Runner
from benchmarks.savers import KINDS, SaverKind
from benchmarks.server import PostgresServer
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
IMAGES = ROOT / "docs" / "img"


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; returns the exit status (1 if a trial failed)."""
    if arguments[:1] == ["moving"]:
        from benchmarks import moving

        return moving.main(arguments[1:])
    options = _parser().parse_args(arguments)
    if options.workloads == ["list"]:
        return _list()
    if options.workloads == ["charts"]:
        return _charts(options.json or LATEST)
    if options.workloads == ["report"]:
        return _report(options.json or LATEST)
    return _benchmarks(options, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workloads",
        nargs="*",
        default=["all"],
        help="workloads, or `all` (default), `list`, or, from a JSON file of results: `charts`, `report`",
    )
    parser.add_argument(
        "--savers", help=f"comma-separated, of: {', '.join(KINDS)}; or `dual`, `official`, `sqlite`, `postgres`"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each workload; default 5, with --quick 1")
    parser.add_argument("--json", type=Path, help="write the results to this file (charts, report: read them)")
    parser.add_argument("--profile", action="store_true", help="print where the timed parts spend their time (1 round)")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_true", help="smallest sizes: does it run, not how fast is it")
    scale.add_argument("--full", action="store_true", help="the longest threads too (1,000 turns; gigabytes of disk)")
    return parser


def _list() -> int:
    for workload in WORKLOADS.values():
        print(f"{workload.name:20} {workload.summary}")
    return 0


def _charts(path: Path) -> int:
    from benchmarks.charts import draw

    for image in draw(_load(path), IMAGES):
        print(image)
    return 0


def _report(path: Path) -> int:
    results = _load(path)
    for name in WORKLOADS:
        if results.of(name):
            print(table(results, name))
    _summary(results)
    return 0


def _load(path: Path) -> Results:
    return from_json(json.loads(path.read_text()))


def _benchmarks(options: argparse.Namespace, arguments: list[str]) -> int:
    scale = "quick" if options.quick else "full" if options.full else "default"
    rounds = options.rounds or (1 if options.quick else 5)
    results = Results(machine(arguments, rounds, scale))
    kinds = _kinds(options.savers)
    server = PostgresServer()
    try:
        for workload in _workloads(options.workloads):
            if options.profile:
                Runner(results, server, scale, 1).profile(workload, kinds)
                continue
            Runner(results, server, scale, rounds).run(workload, kinds)
            print(table(results, workload.name), flush=True)
            if options.json:
                write_json(results, options.json)
    finally:
        server.stop()
    if not options.profile:
        _summary(results)
    return 1 if results.failures else 0


def _summary(results: Results) -> None:
    from benchmarks.bars import verdicts

    print(verdicts(results))
    print(f"\n{noise(results)}")
    for failure in results.failures:
        print(f"FAILED {failure['workload']} {failure['saver']}: {failure['error']}")


def _workloads(names: list[str]) -> list[Workload]:
    if names == ["all"]:
        return list(WORKLOADS.values())
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise SystemExit(f"unknown workload: {', '.join(unknown)}; there are: {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in names]


def _kinds(names: str | None) -> list[SaverKind]:
    chosen = [kind for kind in KINDS.values() if names is None or _chosen(kind, names.split(","))]
    if not chosen:
        raise SystemExit(f"no such saver: {names}; there are: {', '.join(KINDS)}")
    missing = [kind.name for kind in chosen if not kind.importable()]
    if missing:
        print(f"not importable here, left out: {', '.join(missing)}", file=sys.stderr)
    return [kind for kind in chosen if kind.name not in missing]


def _chosen(kind: SaverKind, names: list[str]) -> bool:
    return kind.name in names or kind.maker in names or kind.database in names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
