"""Progress of a run on a terminal: a bar for each rule, instead of Snakemake's text."""

from __future__ import annotations

import sys
from typing import Any


def show_progress(manager: Any) -> bool:
    """Show a run as bars (snakemake-logger-plugin-rich) if its output is a terminal and no other form was asked for.

    A profile cannot make this choice, so the Snakefile calls this function. Snakemake's own text still goes to
    `.snakemake/log/`, and to the output of dry runs and of runs without a terminal.

    Args:
        manager: Snakemake's `LoggerManager` of the running workflow.

    Returns:
        Whether bars are shown.
    """
    settings = manager.settings
    stream = sys.stdout if settings.stdout else sys.stderr
    asked = settings.dryrun or settings.quiet or settings.verbose or settings.debug_dag or settings.printshellcmds
    if asked or manager.plugin_handlers or not stream.isatty():
        return False
    from snakemake_logger_plugin_rich import LogHandler

    bars = LogHandler(settings, None)
    for handler in list(manager.logger.handlers):
        if handler.name == "DefaultStreamHandler":
            manager.logger.removeHandler(handler)
    manager.logger.addHandler(bars)
    manager.plugin_handlers.append(bars)  # Snakemake closes these at the end
    return True
