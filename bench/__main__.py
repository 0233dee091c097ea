"""`python -m bench [SCENARIO ...]`: run the scenarios on one cluster, write results, print the table."""

from __future__ import annotations

import argparse
import subprocess
import sys

from bench.report import Report, table, write
from bench.scenarios import SCENARIOS
from podling.testing.cluster import PodlingCluster
from podling.testing.containerd import missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    chosen = parser.parse_args().scenario or list(SCENARIOS)
    if "cri" in chosen and (program := missing()):
        print(f"leaving cri out: {program} is not there to compare with", file=sys.stderr)
        chosen.remove("cri")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run([sys.executable, "-m", "podling.cli", "image", "demo"], check=True, stdout=sys.stderr)
    reports: list[Report] = []
    with PodlingCluster("bench") as cluster:
        for name in chosen:
            print(f"running {name} ...", file=sys.stderr, flush=True)
            report = SCENARIOS[name](cluster)
            write(report)
            reports.append(report)
    print(table(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
