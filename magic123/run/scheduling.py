"""What the Snakefile changes of Snakemake's own scheduling."""

from __future__ import annotations

from typing import Any

DEFAULT_JOB_RATE = (100, 1)  # jobs, seconds: that of Snakemake's command line


def lift_default_job_rate(scheduler: Any) -> None:
    """Let jobs start without a limit on their rate, unless the command line or a profile asks for another than the default.

    With a limit, Snakemake 9 starts a timer after each job that ends, which wakes the scheduler once in the limit's time span
    until the run is over: after some hundred jobs that takes a fifth of a core. How many jobs run at once is limited by
    `cores` and `jobs`.

    Args:
        scheduler: Snakemake's `JobScheduler` of the workflow, before its first job.
    """
    limiter = scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == DEFAULT_JOB_RATE:
        scheduler.job_rate_limiter = None
