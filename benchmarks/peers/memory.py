"""Peak memory where features are many."""

from .compare import failures_in
from .contenders.ours import Ours
from .effort import Advance, Effort
from .peak import peak_in_process
from .problems import Case
from .records import Record

LIMIT = 1800.0  # seconds; a million features are solved twice, see `peak`


def memory_job(case: Case, effort: Effort, advance: Advance) -> list[Record]:
    """Ours, forward and backward, in a process of its own; the remark has the peak as a multiple of X's memory."""
    advance(case.name)
    record = Record.of(case, Ours.name, version=Ours.version())
    with failures_in(record):
        record.peak_mb = peak_in_process(case, Ours.name, LIMIT)
        size = case.batch * case.n * case.m * {"float32": 4, "float64": 8}[case.dtype] / 1e6
        record.multiple = record.peak_mb / size
        record.remark = f"{record.multiple:.2g} times X ({size:.0f} MB), X's gradient included"
    return [record]
