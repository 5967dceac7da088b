"""Adds to the documentation the files that lie beside their subject, so that none of them exists twice."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = [
    "CHANGELOG.md",
    "datasets/README.md",
    "reports/README.md",
    "reports/objective.md",
    "reports/released.md",
    "reports/performance.md",
    "reports/rehearsal.md",
    "reports/survival.md",
    "reports/committed/demo-full.png",
]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of ELSEWHERE under the paths that they have in the repository.

    Args:
        files: The files of `docs/`.
        config: The configuration in mkdocs.yml.

    Returns:
        The same collection, with the other files appended.
    """
    for path in ELSEWHERE:
        files.append(File.generated(config, path, abs_src_path=str(REPOSITORY / path)))
    return files
