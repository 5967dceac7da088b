"""Adds to the documentation the files that are kept beside what they describe, so that none of them exists twice."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = [
    "CHANGELOG.md",
    "datasets/README.md",
    "reports/README.md",
    "reports/effects.md",
    "reports/objective.md",
    "reports/released.md",
    "reports/performance.md",
    "reports/rehearsal.md",
    "reports/survival.md",
    "reports/committed/demo-full.png",
]
LINK = re.compile(r"(?<=\]\()[^)#:\s]+\.(?:md|png)(?=[)#])")  # to a file of the repository


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


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links that are right in the documentation, where `docs/` is the root.

    Args:
        markdown: The page.
        page: Where it stands.
        config: The configuration in mkdocs.yml.
        files: All files of the documentation.

    Returns:
        The page with its links changed.
    """
    here = PurePosixPath(page.file.src_uri)
    folder = here.parent if str(here) in ELSEWHERE else "docs" / here.parent

    def changed(link: re.Match[str]) -> str:
        target = normpath(f"{folder}/{link[0]}")
        return relpath(target.removeprefix("docs/"), here.parent)

    return LINK.sub(changed, markdown)
