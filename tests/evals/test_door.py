from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(*args):
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_and_plans_do_not_import_torch():
    code = (
        "import sys; sys.argv = ['evals', '--help']\n"
        "import evals.__main__ as door, evals.catalogue\n"
        "try:\n    door.main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "calibrate" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["calibrate", "--metrics", "fvd-wrold"], "did you mean 'fvd-world'"),
        (["stats", "--clips", "100"], "greater than or equal to 20000"),
    ],
)
def test_bad_arguments_end_with_2_and_no_traceback(args, says):
    done = python("-m", "evals", *args)
    text = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert says in text
    assert "Traceback" not in text
