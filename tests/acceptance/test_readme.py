"""The README's curl session, run as it stands."""

import re
import subprocess
from pathlib import Path

from deployment import Deployment

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def test_the_curl_session_of_the_readme_works(local: Deployment, tmp_path: Path) -> None:
    local.start_api()
    local.start_worker()
    block = re.search(r"test_readme\.py\. -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    script = block[1]
    # Only where the service is, its key and a model that needs no hub are this test's own.
    for name, value in {"URL": local.url, "KEY": local.key, "MODEL": "local:tiny"}.items():
        script, count = re.subn(rf"^{name}=.*$", f"{name}={value}", script, flags=re.MULTILINE)
        assert count == 1
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout, done.stderr, local.logs())
    assert "model.safetensors" in done.stdout.splitlines()
    assert "loss" in done.stdout
