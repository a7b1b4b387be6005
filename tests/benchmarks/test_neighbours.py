"""The benchmark of neighbours on small problems: what it solves is solved, and its table says what its rows say."""

from benchmarks import neighbours


def test_the_problems_are_what_their_names_say():
    for name, (make, X, Y) in neighbours.problems().items():
        if X.numel() < 2**21:
            layer = make(1)
            assert layer.threads == 1, name
            assert layer.solve(X, Y).converged.all(), name


def test_the_table_has_a_row_for_each():
    rows = [{"problem": "p", "threads": "one", "alone_ms": 1.0, "beside_ms": 1.5, "ratio": 1.5}]
    assert "| p | one | 1.0 | 1.5 | 1.50 |" in neighbours.table(rows)
