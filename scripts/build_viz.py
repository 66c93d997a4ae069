"""Dibuja los pipelines con Kedro-Viz en _viz/, y sin pedir nada a la red.

`kedro viz build` escribe en build/, que también usa setuptools: se mueve. Su página pide una letra a la red y trae
una plantilla de telemetría que no usamos: se quitan.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT, TARGET = ROOT / "build", ROOT / "_viz"
WEB_FONT = re.compile(r"<link\s[^>]*fonts\.(?:googleapis|gstatic)\.com[^>]*/>\s*")


def main() -> int:
    """Devuelve el código de salida de `kedro viz build`."""
    for folder in (BUILT, TARGET):
        shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "kedro", "viz", "build"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not BUILT.is_dir():
        print(done.stdout + done.stderr, file=sys.stderr)
        return done.returncode or 1
    (BUILT / "telemetry.html").unlink(missing_ok=True)
    for page in BUILT.glob("*.html"):
        page.write_text(WEB_FONT.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    BUILT.rename(TARGET)
    print("Los pipelines están en _viz/index.html; para verlas: python -m http.server -d _viz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
