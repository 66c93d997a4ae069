"""Quien instala el paquete donde no debe, o lo llama desde donde no se ve, lee algo que puede teclear."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
WINDOWS = """
import sys
import asyncio, fsspec, kedro.framework.session, onnxruntime, pandas, psutil  # con el sistema de verdad
from de_jupyter_a_la_tierra import cli

class Windows:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "grp", "pty", "pwd", "resource", "termios"}:
            sys.platform = "win32"
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in {"fcntl", "grp", "pty", "pwd", "resource", "termios"} & {*sys.modules}:
    del sys.modules[name]
sys.meta_path.insert(0, Windows())
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("order", ["predict x.csv y.csv", "jobs run entrenar"])
def test_windows_is_sent_to_wsl(order, tmp_path):
    """Sin los módulos que Windows no tiene, la orden manda a WSL y no enseña un traceback."""
    call = [sys.executable, "-c", WINDOWS, *order.split()]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "usa WSL" in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.parametrize("active", [True, False])
def test_what_is_told_can_be_typed(active, tmp_path):
    """Con el entorno activado, `tierra`; sin activar, o llamado desde make, con la ruta con la que se encuentra."""
    inside = f"{BIN}:/usr/bin:/bin"
    env = {**os.environ, "PATH": inside, "TIERRA_PATH": inside if active else "/usr/bin:/bin"}
    call = [BIN / "tierra", "data", "--rows", "10"]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    order = done.stdout.partition("Para usarlos: ")[2].strip()
    assert order == ("tierra run" if active else f"{BIN}/tierra run")
