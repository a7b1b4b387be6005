import json

import pytest
from coverage_floors import main


@pytest.mark.parametrize(("lines", "branches", "code"), [(96, 91, 0), (94, 91, 1), (96, 89, 1)])
def test_either_figure_below_its_floor_fails(tmp_path, capsys, lines, branches, code):
    totals = {"covered_lines": lines, "num_statements": 100, "covered_branches": branches, "num_branches": 100}
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"totals": totals}))
    assert main(report) == code
    assert f"lines covered: {lines}.0 %" in capsys.readouterr().out
