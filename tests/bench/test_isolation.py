import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.isolation import Announcer, Isolation, memory_limit


@pytest.fixture(scope="module")
def isolation() -> Isolation:
    return Isolation(["bench.worker"])


def announce(folder: Path, announcer: Announcer) -> None:
    print("a line")
    announcer.stage("half")
    announcer.progress(0.5)
    (folder / "pid").write_text(str(os.getpid()))


def hang(folder: Path, announcer: Announcer) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    announcer.stage("hanging")
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "grandchild").write_text(str(grandchild.pid))
    time.sleep(600)


def count_set_aside(folder: Path, announcer: Announcer) -> None:
    (folder / "set aside").write_text(str(gc.get_freeze_count()))


def killed(announcer: Announcer) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(announcer: Announcer) -> None:
    print("last words")
    sys.stdout.flush()
    os._exit(7)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_child_says_where_it_is(tmp_path: Path, isolation: Isolation) -> None:
    shares = []
    ending = isolation.call(
        announce, (tmp_path,), tmp_path / "log", 60, lambda stage, share: shares.append(share)
    )
    assert (ending.exit_code, ending.timed_out, ending.stage) == (0, False, "half")
    assert ending.log == "a line\n"
    assert shares[-1] == 0.5
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    assert ending.spawn_seconds is not None
    assert 0 < ending.spawn_seconds < ending.seconds


def test_collections_in_a_child_leave_out_what_was_imported(tmp_path: Path, isolation: Isolation) -> None:
    isolation.call(count_set_aside, (tmp_path,), tmp_path / "log", 60)
    assert int((tmp_path / "set aside").read_text()) > 10_000  # numpy and pydantic alone are more


def test_a_child_that_hangs_is_ended_with_its_own(tmp_path: Path, isolation: Isolation) -> None:
    ending = isolation.call(hang, (tmp_path,), tmp_path / "log", 2)
    assert ending.timed_out
    assert ending.stage == "hanging"
    assert gone(int((tmp_path / "pid").read_text()))
    assert gone(int((tmp_path / "grandchild").read_text()))


def test_a_killed_child_is_no_memory_failure(tmp_path: Path, isolation: Isolation) -> None:
    ending = isolation.call(killed, (), tmp_path / "log", 60)
    assert (ending.exit_code, ending.killed_for_memory) == (-signal.SIGKILL, False)
    assert ending.reason == "killed by SIGKILL"


def test_last_words_are_kept(tmp_path: Path, isolation: Isolation) -> None:
    ending = isolation.call(leave, (), tmp_path / "log", 60)
    assert ending.reason == "exited with code 7 and without a record; last words"


DRIVER = """
import sys
from pathlib import Path
from bench.isolation import Isolation
from tests.bench.test_isolation import hang

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    Isolation(["bench.worker"]).call(hang, (folder,), folder / "log", 600)
"""


def test_children_die_with_their_driver(tmp_path: Path) -> None:
    """Or an orphan would go on computing beside the run that was resumed, and spoil its clocks."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "grandchild").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    driver.kill()
    driver.wait()
    assert gone(child)
    assert gone(int((tmp_path / "grandchild").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_memory_limit_ends_with_its_block() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    lower = (1 << 40, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, lower)
    try:
        with memory_limit(1 << 30):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] < lower[0]
        assert resource.getrlimit(resource.RLIMIT_DATA) == lower
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
