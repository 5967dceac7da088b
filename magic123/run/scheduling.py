"""Changes to Snakemake's own scheduling."""

from __future__ import annotations

from typing import Any

DEFAULT_JOB_RATE = (100, 1)  # jobs, seconds: that of Snakemake's command line


def lift_default_job_rate(scheduler: Any) -> None:
    """Remove the limit on the rate at which jobs start, unless the command line or a profile sets one other than the default.

    With a limit, Snakemake 9 starts a timer after each job that ends. Each timer wakes the scheduler once per time span of the
    limit until the run is over; after some hundred jobs this takes a fifth of a core. `cores` and `jobs` limit how many jobs
    run at once.

    Args:
        scheduler: Snakemake's `JobScheduler` of the workflow, before its first job.
    """
    limiter = scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == DEFAULT_JOB_RATE:
        scheduler.job_rate_limiter = None
