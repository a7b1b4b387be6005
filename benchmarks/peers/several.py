"""Ours on several cases in one interleaved run: what is compared are the cases."""

from collections.abc import Sequence

from .compare import Judge, quiet
from .contenders.ours import Ours
from .effort import Advance, Effort
from .peak import peak_in_process
from .problems import Case, problem_of
from .records import Record
from .timing import ratios, time_into


def ours_on(cases: Sequence[Case], effort: Effort, advance: Advance) -> list[Record]:
    """A record for each case; ratios are to the first."""
    records, functions = [], {}
    with quiet():
        for i, case in enumerate(cases):
            advance(case.name)
            ours, record = Ours(problem_of(case)), Record.of(case, Ours.name, version=Ours.version())
            Judge(ours.problem)(ours, record)
            record.peak_mb = peak_in_process(case, Ours.name, effort.limit) if effort.memory else None
            records.append(record)
            functions |= {(i, "forward"): ours.forward, (i, "total"): ours.total}
        advance("timing")
        times = time_into(dict(enumerate(records)), functions, effort.repetitions)
    for i, record in enumerate(records):
        record.ratio, record.ratio_min = ratios(times[i, "total"], times[0, "total"])
    return records
