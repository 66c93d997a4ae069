"""Le hace a git una pregunta sobre esta carpeta: python scripts/ask_git.py ls-files -z …

Las pruebas le preguntan qué ficheros son del proyecto, que es quien entiende `.gitignore`. Si la carpeta no es un
repositorio, porque se bajó en un ZIP, se le pregunta igual, con un repositorio vacío y prestado.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def ask_git(*question: str) -> int:
    """Repite lo que responde git, y devuelve su código de salida."""
    if (ROOT / ".git").exists():
        return subprocess.run(["git", *question], cwd=ROOT).returncode
    with tempfile.TemporaryDirectory() as borrowed:
        env = {**os.environ, "GIT_DIR": borrowed, "GIT_WORK_TREE": str(ROOT)}
        subprocess.run(["git", "init", "-q"], cwd=borrowed, env=env, check=True)
        return subprocess.run(["git", *question], cwd=ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(ask_git(*sys.argv[1:]))
