import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import RunError
from bench.isolation import Announcer, Isolation, memory_limit

KEPT: list[object] = []


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


def linger(folder: Path, announcer: Announcer) -> None:
    """Leaves a thread and a process behind, as inference engines do."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "grandchild").write_text(str(grandchild.pid))
    print("done")


def lock(announcer: Announcer) -> None:
    KEPT.append(multiprocessing.RLock())


def fail(announcer: Announcer) -> None:
    raise RuntimeError("as it was meant to")


def quit_with_words(announcer: Announcer) -> None:
    sys.exit("enough")


def mute(announcer: Announcer) -> None:
    threading.Thread(target=time.sleep, args=(600,)).start()
    sys.stdout.close()


def quit_quietly(announcer: Announcer) -> None:
    print("last words", flush=True)
    sys.exit()


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


def test_what_a_child_leaves_running_ends_with_it(tmp_path: Path, isolation: Isolation) -> None:
    ending = isolation.call(linger, (tmp_path,), tmp_path / "log", 60)
    assert (ending.exit_code, ending.timed_out, ending.log) == (0, False, "done\n")
    assert gone(int((tmp_path / "grandchild").read_text()))


@pytest.mark.parametrize(("target", "said"), [(fail, "as it was meant to"), (quit_with_words, "enough")])
def test_a_child_that_raises_says_so(
    tmp_path: Path, isolation: Isolation, target: Callable[[Announcer], None], said: str
) -> None:
    ending = isolation.call(target, (), tmp_path / "log", 60)
    assert ending.exit_code == 1
    assert said in ending.reason


@pytest.mark.parametrize("target", [mute, quit_quietly])
def test_an_end_is_an_end_whatever_can_be_printed(
    tmp_path: Path, isolation: Isolation, target: Callable[[Announcer], None]
) -> None:
    ending = isolation.call(target, (), tmp_path / "log", 60)
    assert (ending.exit_code, ending.timed_out) == (0, False)
    assert "None" not in ending.log


BROKEN = """
import sys
from pathlib import Path
from bench.isolation import Isolation
from tests.bench.test_isolation import announce

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    isolation = Isolation(["raises", "quits", "bench.worker"])
    isolation.preload()
    print(isolation.call(announce, (folder,), folder / "log", 60).exit_code)
"""


def test_an_import_that_breaks_costs_no_other_system_its_cells(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text("raise RuntimeError('no licence')", encoding="utf-8")
    (tmp_path / "quits.py").write_text("import sys; sys.exit(3)", encoding="utf-8")
    (tmp_path / "driver.py").write_text(BROKEN, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


LOCKS = """
import sys
from pathlib import Path
from bench.isolation import Isolation
from tests.bench.test_isolation import lock

if __name__ == "__main__":
    print(Isolation([]).call(lock, (), Path(sys.argv[1]) / "log", 60).exit_code)
"""


def test_a_lock_of_a_child_is_not_called_leaked(tmp_path: Path) -> None:
    """As of a progress bar: Python would warn of it at the end of a run."""
    (tmp_path / "driver.py").write_text(LOCKS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


INTERRUPTED = """
import os, signal, sys, threading, time
from bench.isolation import Isolation

if __name__ == "__main__":
    # As a terminal does on Ctrl-C: to the whole group, while the server imports.
    threading.Timer(1, lambda: os.killpg(0, signal.SIGINT)).start()
    signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
    Isolation(["slow"]).preload()
"""


def test_the_server_leaves_an_interrupt_to_its_driver(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(3)", encoding="utf-8")
    (tmp_path / "driver.py").write_text(INTERRUPTED, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)


def test_a_temporary_folder_whose_name_is_too_long_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(RunError, match=r"TMPDIR=.*longlong has \d+ characters.*set a shorter one"):
        Isolation([])


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
