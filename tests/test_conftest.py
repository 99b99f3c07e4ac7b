"""What holds fast tests to their promise."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from tests import conftest


def test_a_process_of_a_fast_test_is_no_failure_that_code_may_catch() -> None:
    def careless() -> None:
        with contextlib.suppress(Exception):
            subprocess.run(["true"], check=True)

    with pytest.raises(pytest.fail.Exception, match="starts a process: mark it slow"):
        careless()
    assert len(conftest.refused) == 1  # so that the end of the test fails, wherever it was refused
    conftest.refused.clear()
