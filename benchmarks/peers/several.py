"""Ours on several cases in one interleaved run: what is compared are the cases."""

from collections.abc import Sequence

from .compare import Judge, failures_in, quiet
from .contenders.ours import Ours
from .effort import Advance, Effort
from .peak import peak_in_process
from .problems import Case, problem_of
from .records import Record
from .timing import ratios, time_into


def ours_on(cases: Sequence[Case], effort: Effort, advance: Advance) -> list[Record]:
    """A record for each case, whatever happens there; ratios are to the first."""
    records, functions = [], {}
    for i, case in enumerate(cases):
        advance(f"{case.name}: {case.batch} × {case.n} × {case.m} × {case.k}")
        record = Record.of(case, Ours.name, version=Ours.version())
        records.append(record)
        with failures_in(record), quiet():
            ours = Ours(problem_of(case))
            Judge(ours.problem)(ours, record)
            record.peak_mb = peak_in_process(case, Ours.name, effort.limit) if effort.memory else None
            functions |= {(i, "forward"): ours.forward, (i, "total"): ours.total}
    advance(f"{cases[0].name}: timing")
    with quiet():
        times = time_into(dict(enumerate(records)), functions, effort.repetitions)
    for i, record in enumerate(records):
        if {(0, "total"), (i, "total")} <= set(times):
            record.ratio, record.ratio_min = ratios(times[i, "total"], times[0, "total"])
    return records
