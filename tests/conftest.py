"""Lo que comparten las pruebas: llamar a la orden `tierra` como lo haría una persona."""
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TIERRA = Path(sys.executable).with_name("tierra")


@pytest.fixture(scope="session")
def tierra() -> Callable[..., subprocess.CompletedProcess[str]]:
    """La orden `tierra`, en otro proceso y en la carpeta que se diga."""

    def call(*args: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run([TIERRA, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, **options)

    call.path = TIERRA
    return call
