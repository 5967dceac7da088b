"""What is certain to fail is refused before anything runs."""

import pytest

from magic123.records.errors import InputError
from magic123.run.checks import check_remote_python


@pytest.mark.parametrize("folder", ["My Projects", "it's", "a$b", "a;b", "tab\there"])
def test_a_python_that_a_cluster_cannot_start_is_refused(folder):
    with pytest.raises(InputError, match="UV_PROJECT_ENVIRONMENT"):
        check_remote_python(f"/home/{folder}/.venv/bin/python")


def test_other_letters_are_no_obstacle():
    check_remote_python("/home/zoë/magic123-bench_1.0/.venv/bin/python3.11")
