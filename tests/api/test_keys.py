"""Las claves, con un servidor de verdad: quién entra, cómo se cambian en marcha y cuánto puede pedir cada uno."""
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import Server, serving
from small import freeze_small

ROW = {"kilos": 4}
SECRET = "una-clave-que-nadie-adivina-0123456789"
PRIVATE = [("POST", "/predict_score"), ("GET", "/model"), ("GET", "/metrics")]
PUBLIC = ["/", "/docs", "/openapi.json", "/health", "/ready"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Una carpeta con un proyecto vacío y un modelo pequeño."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "lentejas"\n')
    freeze_small(folder / "racion")
    return folder


@contextmanager
def locked(tierra: Callable, home: Path, *args: str, **env: str) -> Iterator[Server]:
    """Un servidor con esas opciones y ese entorno."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        with serving(tierra, home, "--model", "racion", *args) as server:
            yield server


def knock(server: Server, key: str = "", header: str = "authorization") -> int:
    """El código con que contesta a una predicción."""
    value = f"Bearer {key}" if header == "authorization" else key
    return httpx.post(server.address + "/predict_score", json=ROW, headers={header: value} if key else {}).status_code


def wait_for(check: Callable[[], bool]) -> None:
    """Espera a que pase algo; si no pasa, es la prueba la que caduca."""
    while not check():
        time.sleep(0.05)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_door_stays_closed_without_keys(tierra: Callable, home: Path, host: str) -> None:
    """Fuera de este equipo no se arranca sin claves, y la frase dice las dos salidas."""
    done = tierra("serve", "--model", "racion", "--port", "0", "--host", host, cwd=home)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert f"Con --host {host} puede preguntar cualquiera" in done.stderr
    assert "tierra keys add NOMBRE" in done.stderr and "--no-keys" in done.stderr


@pytest.mark.timeout(60)
def test_an_open_door_is_told(tierra: Callable, home: Path) -> None:
    """Con --no-keys se arranca, y se avisa."""
    with locked(tierra, home, "--host", "0.0.0.0", "--no-keys") as server:
        assert "Cualquiera que llegue a este equipo puede preguntar" in "".join(server.said)
        assert httpx.post(f"http://127.0.0.1:{server.port}/predict_score", json=ROW).status_code == 200


@pytest.mark.timeout(60)
def test_who_gets_in(tierra: Callable, home: Path) -> None:
    """Con una clave en el entorno: entra quien la trae, de cualquiera de las dos maneras; lo público no la pide."""
    with locked(tierra, home, TIERRA_API_KEY=f"panel:{SECRET}") as server:
        assert "vale la de panel" in "".join(server.said) and SECRET not in "".join(server.said)
        assert [knock(server), knock(server, "mala"), knock(server, SECRET), knock(server, SECRET, "x-api-key")] == [401, 401, 200, 200]
        for method, path in PRIVATE:
            refused = httpx.request(method, server.address + path)
            assert refused.status_code == 401 and refused.headers["content-type"] == "application/problem+json", path
            assert refused.headers["www-authenticate"].startswith("Bearer") and "Authorization: Bearer" in refused.json()["detail"]
        assert {httpx.get(server.address + path).status_code for path in PUBLIC} == {200}
        assert httpx.get(server.address + "/nada", headers={"authorization": f"Basic {SECRET}"}).status_code == 404


@pytest.mark.timeout(90)
def test_keys_change_while_it_runs(tierra: Callable, home: Path) -> None:
    """Hacer, listar, rotar y quitar, sin reiniciar; del fichero no se saca ninguna clave."""
    first = tierra("keys", "add", "panel", cwd=home).stdout.strip()
    path = home / "conf/local/api_keys.json"
    assert oct(path.stat().st_mode)[-3:] == "600" and first not in path.read_text()
    with locked(tierra, home, "--host", "0.0.0.0") as server:
        assert (knock(server), knock(server, first)) == (401, 200)
        second = tierra("keys", "add", "tienda", cwd=home).stdout.strip()
        wait_for(lambda: knock(server, second) == 200)
        assert tierra("keys", "revoke", "panel", cwd=home).returncode == 0
        wait_for(lambda: knock(server, first) == 401)
        assert knock(server, second) == 200
        good = path.read_text()
        path.write_text("{")  # alguien lo estropea: siguen valiendo las de antes
        time.sleep(1.2)
        assert (knock(server, second), knock(server, first)) == (200, 401)
        path.write_text(good)
        assert [line.split()[0] for line in tierra("keys", "list", cwd=home).stdout.splitlines()] == ["tienda"]
        path.unlink()  # y si lo borra, ninguna
        wait_for(lambda: knock(server, second) == 401)
    wrong = tierra("keys", "revoke", "tienda", cwd=home)
    assert wrong.returncode == 2 and "No hay ninguna clave «tienda»" in wrong.stderr


@pytest.mark.timeout(60)
def test_bad_keys_do_not_start(tierra: Callable, home: Path, tmp_path: Path) -> None:
    """Un fichero que no está, que no se entiende, o una clave que se adivina."""
    (tmp_path / "claves.json").write_text("[]")
    for args, env, told in (
        (["--keys", "no-esta.json"], {}, "No existe el fichero de claves"),
        (["--keys", str(tmp_path / "claves.json")], {}, "no es un fichero de claves"),
        ([], {"TIERRA_API_KEY": "1234"}, "menos de 24 caracteres"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            done = subprocess.run([tierra.path, "serve", "--model", "racion", "--port", "0", *args], cwd=home, env=os.environ, capture_output=True, text=True)
        assert done.returncode in (1, 2) and told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.timeout(60)
def test_each_client_has_its_rate(tierra: Callable, home: Path) -> None:
    """Quien pasa de su límite recibe un 429 que dice cuánto esperar; los demás, y lo público, ni se enteran."""
    other = SECRET[::-1]
    with locked(tierra, home, "--rate", "3/hora", TIERRA_API_KEY=f"panel:{SECRET},tienda:{other}") as server:
        assert [knock(server, SECRET) for _ in range(4)] == [200, 200, 200, 429]
        refused = httpx.post(server.address + "/predict_score", json=ROW, headers={"x-api-key": SECRET})
        assert 1 <= int(refused.headers["retry-after"]) <= 1200 and "3 peticiones" in refused.json()["detail"]
        assert knock(server, other) == 200 and httpx.get(server.address + "/health").status_code == 200
        assert [knock(server, "mala") for _ in range(4)] == [401, 401, 401, 429]  # quien prueba claves también gasta


@pytest.mark.timeout(60)
def test_only_the_listed_pages_may_ask(tierra: Callable, home: Path) -> None:
    """Sin `cors` no se dice nada a nadie; con él, solo a los de la lista, y la consulta previa no pide clave."""
    ask = {"origin": "https://panel.example", "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    with locked(tierra, home) as server:
        silent = httpx.options(server.address + "/predict_score", headers=ask)
        assert silent.status_code == 405 and not [name for name in silent.headers if name.startswith("access-control")]
    with locked(tierra, home, "--cors", "https://panel.example", TIERRA_API_KEY=SECRET) as server:
        asked = httpx.options(server.address + "/predict_score", headers=ask)
        assert asked.status_code == 204 and asked.headers["access-control-allow-origin"] == "https://panel.example"
        assert "X-API-Key" in asked.headers["access-control-allow-headers"]
        refused = httpx.post(server.address + "/predict_score", json=ROW, headers={"origin": "https://panel.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://panel.example"
        other = httpx.options(server.address + "/predict_score", headers=ask | {"origin": "https://malo.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.timeout(60)
def test_the_key_is_written_nowhere(tierra: Callable, home: Path) -> None:
    """Ni en el registro, ni en las métricas, ni en la página: solo el nombre de su dueño."""
    with locked(tierra, home, TIERRA_API_KEY=f"panel:{SECRET}") as server:
        assert knock(server, SECRET) == 200
        seen = "".join(httpx.get(server.address + path, headers={"x-api-key": SECRET}).text for path in ("/", "/metrics", "/model"))
        server.process.terminate()
        out, err = server.process.communicate(timeout=20)
    assert SECRET not in seen + out + err
    assert any(json.loads(line).get("key") == "panel" for line in err.splitlines() if line.startswith("{"))
