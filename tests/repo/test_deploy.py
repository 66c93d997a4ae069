"""Lo que hay en deploy/: el Dockerfile, paso a paso y sin contenedores, y la unidad de systemd, según systemd."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small import freeze_small

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
KEY = "una-clave-que-nadie-adivina-0123456789"
Step = tuple[str, str]  # instrucción y lo que le sigue


def read_stages() -> list[list[Step]]:
    """Las instrucciones del Dockerfile, por etapas, con las líneas partidas ya unidas."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    steps = [tuple(line.split(None, 1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    starts = [position for position, (name, _) in enumerate(steps) if name == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


def find(stage: list[Step], name: str) -> list[str]:
    """Lo que se dice en una etapa con una instrucción."""
    return [value for step, value in stage if step == name]


# --- Lo que se lee -----------------------------------------------------------------------------------------------


def test_the_notebook_says_the_same():
    """Las órdenes que enseña el cuaderno son las que encabezan esos dos ficheros."""
    cells = json.loads((ROOT / "nbs/3_api/50_cli_serve.ipynb").read_text(encoding="utf-8"))["cells"]
    (section,) = ("".join(cell["source"]) for cell in cells if cell["source"][:1] == ["## Dejarla puesta\n"])
    shown = [line for block in re.findall(r"```bash\n(.*?)```", section, re.S) for line in block.splitlines()]
    files = [(DEPLOY / name).read_text(encoding="utf-8") for name in ("tierra.service", "Dockerfile")]
    assert shown == [line[4:] for text in files for line in text.splitlines() if line.startswith("#   ")]


def test_the_dockerfile_is_clean():
    """hadolint no tiene nada que decir."""
    done = subprocess.run([BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_pinned():
    """Las imágenes, por su huella y la misma; las bibliotecas, con las suyas, y sin compilar nada."""
    stages = read_stages()
    images = [find(stage, "FROM")[0].split()[0] for stage in stages]
    assert len(set(images)) == 1 and re.fullmatch(r"python:3\.\d+-slim@sha256:[0-9a-f]{64}", images[0])
    installs = [part for stage in stages for run in find(stage, "RUN") for part in run.split("&&") if "pip install" in part]
    assert installs and all("--require-hashes --only-binary :all:" in part or "--no-index" in part for part in installs)


def test_it_runs_as_nobody():
    """La última etapa no es de root, se mira a sí misma y se para con SIGTERM; lo que no hace falta no llega."""
    *_, last = read_stages()
    (user,) = find(last, "USER")
    assert user.isdigit() and f"--uid {user}" in find(last, "RUN")[0]
    assert find(last, "STOPSIGNAL") == ["SIGTERM"] and find(last, "HEALTHCHECK") and json.loads(find(last, "CMD")[0]) == ["tierra", "serve"]
    assert [copy.split()[:2] for copy in find(last, "COPY")] == [["--from=build", "/opt/tierra"]]


def test_the_serving_lock_is_small_and_part_of_the_others():
    """Lo que se sirve es lo que se prueba; como mucho treinta paquetes, y ninguno de los pesados."""
    def read(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / f"requirements/{name}.txt").read_text(), re.M))

    served = read("servir")
    assert served.items() <= read("dev").items() and len(served) <= 30
    assert not {"pandas", "scikit-learn", "scipy", "skops", "mlflow", "kedro", "pyarrow", "pydantic", "starlette"} & {*served}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="aquí no hay systemd")
def test_systemd_accepts_the_unit(tmp_path):
    """systemd la entiende, y la da por bien encerrada (de 0 a 10, menos de 2)."""
    text = (DEPLOY / "tierra.service").read_text(encoding="utf-8")
    unit = tmp_path / "tierra.service"
    unit.write_text(text.replace("/opt/tierra/bin/tierra", str(BIN / "tierra")))
    for check in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(["systemd-analyze", *check, unit], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "Unknown" not in done.stderr, done.stdout + done.stderr


# --- Lo que se hace ----------------------------------------------------------------------------------------------


class Rehearsal:
    """Los pasos de un Dockerfile, hechos en una carpeta que hace de raíz."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.stages = folder, folder / "root", {}
        self.env = {"PATH": f"{folder / 'base'}:/usr/bin:/bin", "HOME": str(folder)}
        base = folder / "base"
        base.mkdir(parents=True)
        (base / "python").symlink_to(sys._base_executable)
        (base / "useradd").write_text("#!/bin/sh\n")  # no se hacen usuarios en esta máquina
        (base / "useradd").chmod(0o755)

    def place(self, text: str) -> str:
        """Un texto con las rutas de la imagen cambiadas por las de la carpeta."""
        return re.sub(r"(?<![\w./-])/(?=(opt|build|srv|dev/shm)\b)", f"{self.root}/", text)

    def play(self, stage: list[Step]) -> None:
        """Hace los pasos de una etapa, en una raíz vacía."""
        self.root.mkdir()
        here = self.root
        for name, value in stage:
            if name == "WORKDIR":
                here = Path(self.place(value))
                here.mkdir(parents=True, exist_ok=True)
            elif name == "ENV":
                for pair in shlex.split(self.place(value)):
                    key, _, said = pair.partition("=")
                    self.env[key] = said.replace("$PATH", self.env["PATH"])
            elif name == "COPY":
                self.copy(value.split(), here)
            elif name == "RUN":
                done = subprocess.run(["sh", "-ec", self.place(value)], cwd=here, env=os.environ | self.env, capture_output=True, text=True)
                assert done.returncode == 0, f"{value}\n{done.stdout}{done.stderr}"
        label = find(stage, "FROM")[0].split(" AS ")
        if len(label) == 2:
            self.stages[label[1]] = self.root.rename(self.folder / label[1])

    def copy(self, words: list[str], here: Path) -> None:
        """Copia de otra etapa o del repositorio, sin lo que dice .dockerignore."""
        if words[0].startswith("--from="):
            source = self.stages[words.pop(0).removeprefix("--from=")]
            shutil.copytree(source / words[0].lstrip("/"), self.place(words[1]), symlinks=True)
            return
        *sources, target = words
        kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M) if sources == ["."] else sources
        for path in (path for pattern in kept for path in ROOT.glob(pattern)):
            place = here / target / (path.relative_to(ROOT) if sources == ["."] else path.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
            else:
                shutil.copy(path, place)

    @contextmanager
    def serve(self, command: str, **env: str) -> Iterator[subprocess.Popen]:
        """Lo que hace la imagen al arrancar, en un puerto libre."""
        process = subprocess.Popen(
            self.find_program(json.loads(command)), cwd=self.root / "srv", env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=30)

    def find_program(self, command: list[str]) -> list[str]:
        """Una orden, con la ruta de su programa según el PATH de la imagen."""
        return [shutil.which(command[0], path=self.env["PATH"]), *command[1:]]


def list_files(root: Path) -> dict[str, int]:
    """Los ficheros de una carpeta y de cuándo son."""
    return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*") if not path.is_dir() and "shm" not in path.parts}


@pytest.mark.long
@pytest.mark.network
@pytest.mark.timeout(600)
def test_every_step_of_the_dockerfile(tmp_path):
    """Sus pasos, uno a uno, dan algo que sin clave no arranca, con ella contesta, se mira a sí mismo y no escribe en su raíz."""
    rehearsal, (build, last) = Rehearsal(tmp_path), read_stages()
    rehearsal.play(build)
    rehearsal.play(last)
    freeze_small(rehearsal.root / "srv/model")
    (rehearsal.root / "dev/shm").mkdir(parents=True)
    (command,), health = find(last, "CMD"), json.loads(find(last, "HEALTHCHECK")[0].partition("CMD ")[2])
    with rehearsal.serve(command) as process:
        assert process.wait(60) == 2 and "no hay ninguna clave" in process.stderr.read()
    before = list_files(rehearsal.root)
    with rehearsal.serve(command, TIERRA_API_KEY=f"panel:{KEY}", TIERRA_API_PORT="0") as process:
        said = [process.stdout.readline() for _ in range(5)]
        port = re.search(r":(\d+),", said[1])[1]
        look = rehearsal.find_program(health)
        assert subprocess.run(look, env=rehearsal.env | {"TIERRA_API_PORT": port}).returncode == 0
        assert subprocess.run(look, env=rehearsal.env | {"TIERRA_API_PORT": "9"}, stderr=subprocess.DEVNULL).returncode != 0
        ask = ["curl", "-s", f"http://127.0.0.1:{port}/predict_score", "-d", '{"kilos": 4}', "-H"]
        assert "Falta la clave" in subprocess.run([*ask, "X: y"], capture_output=True, text=True).stdout
        answer = json.loads(subprocess.run([*ask, f"Authorization: Bearer {KEY}"], capture_output=True, text=True).stdout)
        assert abs(answer["score"] - 60) < 1e-3
        time.sleep(0.5)
        process.terminate()
        assert process.wait(30) == 0
    assert list_files(rehearsal.root) == before


@pytest.mark.long
@pytest.mark.network
@pytest.mark.timeout(600)
def test_the_serving_extra_says_what_is_missing(wheel, tmp_path):
    """`pip install "…[servir]"`, en un entorno nuevo: como mucho treinta paquetes; sirve ONNX, y con skops dice qué extra falta."""
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    bin_, extra = tmp_path / "venv/bin", f"de-jupyter-a-la-tierra[servir] @ {wheel.as_uri()}"
    subprocess.run([bin_ / "pip", "install", "-q", "--disable-pip-version-check", extra], check=True)
    code = "from importlib.metadata import distributions as d; print(*sorted(x.name.lower() for x in d()))"
    names = subprocess.run([bin_ / "python", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len({*names} - {"pip", "setuptools"}) <= 30 and not {"pandas", "scikit-learn", "kedro", "mlflow"} & {*names}
    freeze_small(tmp_path / "lento", make_pipeline(RBFSampler(random_state=0), Ridge()))
    done = subprocess.run([bin_ / "tierra", "serve", "--model", "lento", "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert "skops" in done.stderr and 'pip install "de-jupyter-a-la-tierra[libreta]' in done.stderr
    done = subprocess.run([bin_ / "tierra", "serve", "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and 'pip install "de-jupyter-a-la-tierra[' in done.stderr and "Traceback" not in done.stderr
