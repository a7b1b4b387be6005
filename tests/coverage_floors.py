"""Fail where a coverage report in JSON is below the floors: pytest-cov has one figure for lines and branches."""

import json
import sys
from pathlib import Path

FLOORS = {"lines": 95.0, "branches": 90.0}


def shares(report):
    """Percentages covered, of lines and of branches."""
    totals = report["totals"]
    return {
        "lines": 100 * totals["covered_lines"] / totals["num_statements"],
        "branches": 100 * totals["covered_branches"] / totals["num_branches"],
    }


def main(path):
    found = shares(json.loads(Path(path).read_text()))
    for what, share in found.items():
        print(f"{what} covered: {share:.1f} %, expected at least {FLOORS[what]:g} %")
    return int(any(share < FLOORS[what] for what, share in found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
