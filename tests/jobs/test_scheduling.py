"""Las recetas de «Programarlos», sacadas de la página y puestas en marcha: cron, systemd y jupyter-scheduler."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NOTEBOOKS = Path(__file__).parents[2] / "nbs/6_trabajos"
PAGE = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / "80_programar.ipynb", as_version=4).cells)
TOY = """import os
from pathlib import Path
Path("hechos.txt").open("a").write(f"{model_type} {os.getcwd()}\\n")
if Path("falla").exists():
    Path("falla").unlink()
    raise RuntimeError("hoy no")"""


def find_blocks(language: str) -> list[str]:
    """Los bloques de la página escritos en un lenguaje."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def demand(there: bool, what: str) -> None:
    """Lo que la máquina ha de tener: en la integración continua es un fallo que no esté; fuera, se dice y se salta."""
    if not there:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"Falta {what}.")


def can_unshare() -> bool:
    """Si se puede montar algo sin que lo vea el resto de la máquina."""
    return not subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode


@pytest.fixture
def home(tmp_path) -> Path:
    """La carpeta de una persona, con un proyecto `gatos` cuyo trabajo apunta que se ha hecho, y falla si se le pide."""
    job = new_notebook(cells=[
        new_markdown_cell("# Entrenar\n> De juguete."),
        new_code_cell('model_type: str = "logistic"  # la clase de modelo', metadata={"tags": ["parameters"]}),
        new_code_cell(TOY),
    ])
    job.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    (tmp_path / "gatos/nbs/6_trabajos").mkdir(parents=True)
    (tmp_path / "gatos/pyproject.toml").write_text('[tool.kedro]\npackage_name = "gatos"\n')
    (tmp_path / "gatos/.venv").symlink_to(sys.prefix)
    nbformat.write(job, tmp_path / "gatos/nbs/6_trabajos/entrenar.ipynb")
    return tmp_path


def read_done(home: Path) -> list[str]:
    """Lo que ha apuntado el trabajo, una línea por vez que se ha hecho."""
    path = home / "gatos/hechos.txt"
    return path.read_text().splitlines() if path.exists() else []


# --- cron --------------------------------------------------------------------------------------------------------


def read_crontab(home: Path) -> tuple[dict[str, str], str, str]:
    """Lo que dice el crontab de la página para el proyecto de una persona: variables, cuándo y qué."""
    [text] = find_blocks("cron")
    lines = [line for line in text.replace("/srv/gatos", str(home / "gatos")).splitlines() if not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines[:-1])
    *when, order = lines[-1].split(maxsplit=5)
    return variables, " ".join(when), order


def run_like_cron(home: Path) -> subprocess.CompletedProcess[str]:
    """Ejecuta la línea de la página como cron: sh, la carpeta de inicio y las variables que él pone."""
    variables, _, order = read_crontab(home)
    env = {"HOME": str(home), "LOGNAME": "ana", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(["/bin/sh", "-c", order], cwd=home, env=env, capture_output=True, text=True, timeout=120)


def test_the_cron_line_trains_and_says_nothing(home):
    """La línea del crontab hace el trabajo en su proyecto; como ha ido bien, cron no tiene nada que mandar."""
    _, when, order = read_crontab(home)
    assert when == "0 3 * * *" and "%" not in order
    done = run_like_cron(home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert read_done(home) == [f"random_forest {home / 'gatos'}"] and "Cuaderno ejecutado" in (home / "gatos/noche.log").read_text()


def test_a_bad_night_is_the_mail(home):
    """Si falla, lo que cron mandaría por correo es la frase; el registro la tiene también."""
    (home / "gatos/falla").touch()
    done = run_like_cron(home)
    assert "hoy no" in done.stdout and "Traceback" not in done.stdout


def test_cron_does_not_start_two(home):
    """Mientras el de ayer siga en marcha, el de hoy no empieza."""
    with subprocess.Popen(["flock", home / "gatos/.noche", "sh", "-c", "echo; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as yesterday:
        yesterday.stdout.readline()
        run_like_cron(home)
        yesterday.communicate(b"\n")
    assert read_done(home) == []


@pytest.mark.long
def test_debian_cron_runs_the_line(home):
    """El cron de Debian lee ese crontab y hace el trabajo; solo se le cambia la hora, para no esperar a las tres."""
    cron = shutil.which("cron", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")  # que no siempre están en el PATH de quien no es root
    demand(cron is not None, "cron: apt-get install cron")
    demand(os.geteuid() == 0 and can_unshare(), "permiso para aislar un cron del de la máquina (root y unshare)")
    variables, _, order = read_crontab(home)
    lines = [f'{name}="{value}"' for name, value in (variables | {"MAILTO": ""}).items()]
    (home / "crontab").write_text("\n".join([*lines, f"* * * * * {order}", ""]))
    isolate = ["mount -t tmpfs none /run", "mount -t tmpfs none /etc/cron.d", "mount -t tmpfs none /var/spool/cron",
               "mount --bind /dev/null /etc/crontab", "mkdir -p -m 1730 /var/spool/cron/crontabs", f"crontab {home}/crontab"]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "; ".join([*isolate, f"exec {cron} -f"])]
    with subprocess.Popen(command) as running:
        wait_until(lambda: read_done(home), seconds=110)
        wait_until(lambda: "Cuaderno ejecutado" in (home / "gatos/noche.log").read_text(), seconds=30)
        running.kill()
    assert read_done(home)[0] == f"random_forest {home / 'gatos'}"


def wait_until(happened, seconds: float) -> None:
    """Espera a que pase algo; falla si tarda demasiado."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "no ha pasado a tiempo"
        time.sleep(0.2)


# --- systemd -----------------------------------------------------------------------------------------------------


def write_units(home: Path) -> dict[str, Path]:
    """Escribe las unidades de la página donde las busca systemd; por nombre, dónde."""
    folder = home / ".config/systemd/user"
    folder.mkdir(parents=True)
    units = {}
    for text in find_blocks("ini"):
        path = folder / text.splitlines()[0].removeprefix("# ")
        path.write_text(text)
        units[path.name] = path
    assert set(units) == {"entrenar.service", "entrenar.timer"}
    return units


def verify(home: Path, *units: Path) -> subprocess.CompletedProcess[str]:
    """Lo que piensa systemd de unas unidades de usuario."""
    env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": "/usr/bin:/bin"}
    return subprocess.run(["systemd-analyze", "--user", "verify", *units], env=env, capture_output=True, text=True)


def test_systemd_understands_the_units(home):
    """Las unidades se entienden enteras y sin un aviso; con una errata, no."""
    demand(shutil.which("systemd-analyze") is not None, "systemd-analyze: apt-get install systemd")
    units = write_units(home)
    done = verify(home, *units.values())
    assert (done.returncode, done.stderr) == (0, "")
    service = units["entrenar.service"]
    service.write_text(service.read_text().replace("Restart=", "Restar="))
    assert "Restar" in verify(home, service).stderr


def test_the_timer_is_nightly(home):
    """La hora del temporizador es la que dice la página."""
    demand(shutil.which("systemd-analyze") is not None, "systemd-analyze: apt-get install systemd")
    [when] = re.findall(r"OnCalendar=(.+)", write_units(home)["entrenar.timer"].read_text())
    done = subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, text=True)
    assert done.returncode == 0 and "*-*-* 03:00:00" in done.stdout


SYSTEMD = """set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
/lib/systemd/systemd --user >/dev/null 2>&1 &
until systemctl --user is-system-running >/dev/null 2>&1; do sleep 0.1; done
ask() { systemctl --user show entrenar.service -p Result -p NRestarts -p ActiveState --value | tr '\\n' ' '; echo; }
"""


def run_systemd(home: Path, script: str) -> str:
    """Arranca un systemd de usuario que nadie más ve y le da unas órdenes; lo que escriben."""
    demand(Path("/lib/systemd/systemd").exists(), "systemd: apt-get install systemd")
    demand(os.geteuid() == 0 and can_unshare(), "permiso para aislar un systemd del de la máquina (root y unshare)")
    env = {"HOME": str(home), "XDG_RUNTIME_DIR": "/run/tierra", "PATH": "/usr/bin:/bin"}
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SYSTEMD + script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def change(path: Path, section: str, *lines: str) -> None:
    """Cambia una unidad como lo haría una persona, con `systemctl edit`: un añadido en su carpeta `.d`."""
    (path.parent / f"{path.name}.d").mkdir()
    (path.parent / f"{path.name}.d/prueba.conf").write_text("\n".join([f"[{section}]", *lines, ""]))


def test_the_service_trains_and_repeats_what_fails(home):
    """El servicio hace el trabajo en su proyecto, y si la primera vez falla lo repite."""
    change(write_units(home)["entrenar.service"], "Service", "RestartSec=100ms")
    (home / "gatos/falla").touch()
    wait = "until [ $(systemctl --user show -p NRestarts --value entrenar) = 1 ]; do sleep 0.1; done\n"
    idle = "while systemctl --user is-active entrenar | grep -q activating; do sleep 0.2; done\n"
    said = run_systemd(home, "systemctl --user start --no-block entrenar\n" + wait + idle + "ask\n")
    assert "success" in said and "inactive" in said
    assert read_done(home) == [f"random_forest {home / 'gatos'}"] * 2


def test_the_service_does_not_repeat_what_is_badly_asked(home):
    """Lo mal pedido (código 2) no se repite: fallaría igual."""
    service = write_units(home)["entrenar.service"]
    service.write_text(service.read_text().replace("model_type", "model_tipe"))
    said = run_systemd(home, "systemctl --user start entrenar || ask\nsystemctl --user show -p ExecMainStatus entrenar\n")
    assert "exit-code" in said and "failed" in said and "ExecMainStatus=2" in said and " 0 " in f" {said.splitlines()[0]} "


def test_the_timer_starts_the_service(home):
    """El temporizador queda puesto para las tres y, al llegar su hora (aquí, enseguida), arranca el servicio."""
    units = write_units(home)
    first = "systemctl --user start entrenar.timer; systemctl --user list-timers --no-pager\n"
    listed = run_systemd(home, first)
    assert re.search(r" 03:0\d:\d\d .* entrenar\.timer +entrenar\.service", listed)
    change(units["entrenar.timer"], "Timer", "OnCalendar=", "OnCalendar=*:*:*", "RandomizedDelaySec=0", "AccuracySec=100ms")
    run_systemd(home, "systemctl --user start entrenar.timer; until [ -s $HOME/gatos/hechos.txt ]; do sleep 0.1; done\n")
    assert read_done(home)[0] == f"random_forest {home / 'gatos'}"


# --- JupyterLab --------------------------------------------------------------------------------------------------


@contextmanager
def serve_lab(root: Path, home: Path):
    """Un JupyterLab de verdad con jupyter-scheduler, para un proyecto; lo que se obtiene llama a su API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY"))}
    env = clean | {"HOME": str(home), "TIERRA_PROJECT": str(root), "JUPYTER_TOKEN": "secreto"}
    command = [Path(sys.executable).with_name("jupyter"), "lab", root, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    lab = subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def call(path: str, body: dict | None = None):
        headers = {"Authorization": "token secreto", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", json.dumps(body).encode() if body else None, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def is_up() -> bool:
        try:
            return bool(call("api/status"))
        except urllib.error.HTTPError:
            raise
        except OSError:
            return False

    try:
        wait_until(is_up, seconds=60)
        yield call
    finally:
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()


@pytest.mark.long
def test_jupyter_scheduler_runs_the_notebook_as_it_is(tmp_path, tierra):
    """JupyterLab copia el cuaderno a otra carpeta y lo ejecuta con valores, y el modelo queda en el proyecto."""
    [block] = find_blocks("json")
    order, root, home = json.loads(block), tmp_path / "gatos", tmp_path / "home"
    (root / "nbs/6_trabajos").mkdir(parents=True)
    home.mkdir()
    shutil.copy(NOTEBOOKS / "entrenar.ipynb", root / order["input_uri"])
    assert tierra("data", "--rows", "600", cwd=root).returncode == 0
    with serve_lab(root, home) as call:
        order["runtime_environment_name"] = call("scheduler/runtime_environments")[0]["name"]
        job = call("scheduler/jobs", order)["job_id"]
        wait_until(lambda: call(f"scheduler/jobs/{job}")["status"] in ("COMPLETED", "FAILED"), seconds=180)
        status = call(f"scheduler/jobs/{job}")
    assert status["status"] == "COMPLETED", status["status_message"]
    [card] = [json.loads(path.read_text()) for path in root.glob("data/06_models/*/*/*/model.json")]
    assert "RandomForest" in card["estimator"]
    staged = home / f".local/share/jupyter/scheduler_staging_area/{job}"
    [executed] = [nbformat.read(path, as_version=4) for path in staged.glob("entrenar-*.ipynb")]
    assert "Acierto" in str(executed) and not (staged / "data").exists()
