import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.workspaces import clear_abandoned, workspace

HOLD = """
import sys, time
from pathlib import Path
from app.workspaces import workspace
with workspace(Path(sys.argv[1])) as folder:
    (folder / "big").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_workspace_is_gone_after_the_block_even_when_it_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), workspace(tmp_path, "job-"):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_only_the_workspace_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    with (
        workspace(tmp_path) as mine,
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert clear_abandoned(tmp_path) == 0
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert clear_abandoned(tmp_path) == 1
        assert mine.exists()
        assert not theirs.exists()
