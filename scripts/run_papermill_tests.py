"""Pasa las pruebas de papermill, las suyas, con el motor «tierra» en el sitio del de siempre.

Las trae del paquete fuente de la versión instalada, que no va en la rueda. Sin red no se puede, y se dice.
"""
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

# Lo que pasa por un motor; lo demás (S3, Google, Azure, HDFS) necesita bibliotecas que aquí no hacen falta.
PARTS = (
    "autosave", "cli", "clientwrap", "conf", "engines", "exceptions", "execute", "inspect", "parameterize", "translators", "utils",
)


def pytest_configure() -> None:
    """Este fichero es también el complemento de pytest que pone nuestro motor, sea cual sea el núcleo que pida la prueba."""
    from papermill.engines import papermill_engines

    from de_jupyter_a_la_tierra.engine.plugin import TierraEngine

    class Forced(TierraEngine):
        """Nuestro motor, al que no se le puede pedir un núcleo."""

        @classmethod
        def execute_notebook(cls, nb, kernel_name, **kwargs):
            return super().execute_notebook(nb, "", **kwargs)

    papermill_engines.register(None, Forced)


def fetch(folder: Path) -> Path | None:
    """El paquete fuente de papermill, desplegado; `None` si no se puede traer."""
    wanted = f"papermill=={version('papermill')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", "papermill", "-d", folder, wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = list(folder.glob("papermill-*.tar.gz"))
    if done.returncode or not found:
        print(f"Se saltan las pruebas de papermill: no se ha podido traer {wanted}, quizá porque no hay red.")
        return None
    subprocess.run(["tar", "-xzf", found[0], "-C", folder], check=True)  # el «filter» de tarfile no está en las primeras 3.11
    return next(path for path in folder.iterdir() if path.is_dir())


def main() -> int:
    """Trae las pruebas y las pasa; devuelve el código de pytest."""
    with TemporaryDirectory() as folder:
        source = fetch(Path(folder))
        if source is None:
            return 0
        tests = [path for part in PARTS if (path := source / f"papermill/tests/test_{part}.py").is_file()]
        if not tests:
            print("Se saltan las pruebas de papermill: su paquete fuente ya no las trae.")
            return 0
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        options = ["-q", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "--timeout", "120", *sys.argv[1:]]
        return subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=source, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
