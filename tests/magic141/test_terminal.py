"""A terminal that knows fewer letters gets question marks, and no traceback."""

import os
import subprocess
import sys

CODE = "from magic141.terminal import say_what_it_can; say_what_it_can(); print('3 × faster')"


def test_what_the_encoding_lacks_is_a_question_mark():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3 ? faster\n"
