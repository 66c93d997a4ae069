"""La página, abierta en un Chromium de verdad: lo que contesta, lo que se ve y a quién estorba."""
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browser import CHROMIUM, DESKTOP, PHONE, Page, browsing
from mixed import NAMES, simulate_voyages
from serving import Server, serving

from de_jupyter_a_la_tierra.catfood.cleaning import clean_foods
from de_jupyter_a_la_tierra.catfood.columns import CATFOOD, LABEL_FIGURES
from de_jupyter_a_la_tierra.catfood.model import train_model
from de_jupyter_a_la_tierra.catfood.simulate import simulate_foods
from de_jupyter_a_la_tierra.models.freezing import freeze_model

AXE = Path(os.environ.get("TIERRA_AXE", ""))  # axe.min.js, del paquete axe-core de npm
FEATURES = list(LABEL_FIGURES)
SERIOUS = ("serious", "critical")
WHISKAS = {"dma_ash": 1.7, "dma_cals": 76, "dma_carbs": 21, "dma_prot": 50, "ga_moist": 84}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="sin Chromium")


@pytest.fixture(scope="module")
def cats(tierra: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Un servidor con el modelo de comidas simuladas."""
    folder = tmp_path_factory.mktemp("page") / "catfood"
    foods = clean_foods(simulate_foods(800))[0]
    freeze_model(
        train_model(foods[FEATURES], foods[CATFOOD.target], {"type": "logistic"}), folder, X_train=foods[FEATURES],
        X_evaluation=foods[FEATURES].tail(50), metrics={}, features=CATFOOD.select(FEATURES),
        target=CATFOOD.select([CATFOOD.target])[0], data={"origin": "simulated"}, name="catfood",
    )
    with serving(tierra, folder.parent, "--model", folder) as server:
        yield server


@pytest.fixture(scope="module")
def voyage(tierra: Callable, voyages: Path) -> Iterator[Server]:
    """Un servidor con columnas de todas las clases."""
    with serving(tierra, voyages.parent, "--model", voyages) as server:
        yield server


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Una pestaña."""
    with browsing(tmp_path_factory.mktemp("chromium")) as page:
        page.resize(DESKTOP)
        yield page


def wait_answer(page: Page, done: int = 0) -> None:
    """Espera a que la página haya contestado una vez más."""
    deadline = time.monotonic() + 20
    while (page.run("Number(form.dataset.done || 0)") or 0) <= done:
        assert time.monotonic() < deadline, page.faults
        time.sleep(0.01)


def ask(page: Page, row: dict[str, Any]) -> dict[str, Any] | None:
    """Escribe una fila en las casillas y pulsa «Predecir»; la respuesta, como la enseña para un programa."""
    done = page.run("Number(form.dataset.done || 0)")
    page.run(
        f"""for (const [name, value] of Object.entries({json.dumps(row)})) {{
          const field = fields.find(field => field.name === name);
          if (field.type === "checkbox") field.checked = value; else field.value = value;
        }}
        document.querySelector("button.go").click()"""
    )
    wait_answer(page, done)
    return json.loads(page.run("more.querySelector('pre')?.textContent || 'null'"))


def write_number(value: float) -> str:
    """Un número, como lo teclea una persona."""
    return f"{value:g}".replace(".", ",")


# ── Lo que contesta ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("n_rows", [20, pytest.param(200, marks=pytest.mark.long)])
def test_the_page_answers_what_the_api_answers(page: Page, cats: Server, n_rows: int) -> None:
    """Unas filas tecleadas dan lo mismo que mandadas: la nota que se lee, la probabilidad y la explicación."""
    foods = clean_foods(simulate_foods(n_rows + 50, seed=11))[0][FEATURES].head(n_rows)
    page.open(cats.address)
    for row in foods.to_dict("records"):
        shown = ask(page, {name: write_number(value) for name, value in row.items()})
        sent = {name: float(f"{value:g}") for name, value in row.items()}
        assert shown == cats.ask(sent, "/predict_score?explain=true&probabilities=true").json()
        read = page.run("[said.querySelector('.score').firstChild.textContent, said.querySelectorAll('.on').length, said.innerText]")
        assert read[:2] == [str(shown["score"]), shown["score"]]
        (told,) = re.findall(r"una probabilidad del ([\d,]+) %", read[2])
        assert float(told.replace(",", ".")) == pytest.approx(100 * shown["probability"], abs=0.0501)  # una cifra decimal; un empate, hacia cualquiera


def test_every_kind_of_box_sends_what_it_should(page: Page, voyage: Server) -> None:
    """Fechas, categorías, síes, textos y huecos: lo mismo tecleado que mandado."""
    rows = simulate_voyages(12, seed=5)[NAMES].astype(object).where(lambda rows: rows.notna() & (rows != ""), None)
    page.open(voyage.address)
    for row in rows.to_dict("records"):
        moments = {"sailed": "%Y-%m-%d", "seen": "%Y-%m-%dT%H:%M", "watch": "%H:%M"}
        sent = {name: None if value is None else value.strftime(moments[name]) if name in moments else value for name, value in row.items()}
        sent |= {"alone": bool(row["alone"]), "saved": None if row["saved"] is None else bool(row["saved"])}
        typed = {name: "" if value is None else str(value).lower() if isinstance(value, bool) else value for name, value in sent.items()}
        typed |= {name: write_number(sent[name]) for name in ("age", "fare") if sent[name] is not None} | {"alone": sent["alone"]}
        assert ask(page, typed) == voyage.ask(sent, "/predict_score?explain=true&probabilities=true").json()


@pytest.mark.parametrize(("typed", "value"), [("50", 50), ("50,5", 50.5), ("50.5", 50.5), (" 50 % ", 50), ("50,50%", 50.5)])
def test_a_number_as_people_write_it(page: Page, cats: Server, typed: str, value: float) -> None:
    page.open(cats.address)
    page.run("done = 0")
    ask(page, {"dma_prot": typed})
    assert page.run("read(fields.find(field => field.name === 'dma_prot'))") == value


def test_an_example_is_one_click(page: Page, cats: Server) -> None:
    """Cada ejemplo rellena las casillas y pregunta: el del proyecto, uno corriente, y dos que tiran para un lado y para el otro."""
    page.open(cats.address)
    labels, scores = page.run("[...document.querySelectorAll('[data-row]')].map(button => button.textContent)"), []
    assert labels == ["Una lata de Whiskas", "Una fila corriente", "Que salga mucho", "Que salga poco"]
    for place in range(len(labels)):
        page.run(f"document.querySelectorAll('[data-row]')[{place}].click()")
        wait_answer(page, place)
        scores.append(json.loads(page.run("more.querySelector('pre').textContent"))["score"])
    assert scores[0] == cats.ask(WHISKAS).json()["score"] and scores[2] > scores[1] > scores[3]


def test_the_explanation_is_drawn(page: Page, cats: Server) -> None:
    """Una barra por columna que movió algo, hacia su lado y con su frase."""
    page.open(cats.address)
    shown = ask(page, {name: write_number(value) for name, value in WHISKAS.items()})
    drawn = page.run("[...more.querySelectorAll('.pushes li')].map(row => [row.innerText.trim(), row.querySelector('.up') ? 1 : -1])")
    pushes = shown["explanation"]["contributions"]
    assert drawn == [[push["detail"], np.sign(push["contribution"])] for push in pushes][: len(drawn)] and len(drawn) >= 3
    assert shown["explanation"]["method_detail"] in page.run("more.innerText")


# ── Cuando algo va mal ──────────────────────────────────────────────────────


def test_what_is_wrong_is_told_beside_its_box(page: Page, cats: Server) -> None:
    page.open(cats.address)
    assert ask(page, {"dma_ash": "2", "dma_prot": "150", "ga_moist": "mucha"}) is None
    marked = page.run("fields.filter(field => field.getAttribute('aria-invalid')).map(field => [field.name, $(field.id + '-fault').textContent])")
    assert [name for name, _ in marked] == ["dma_prot", "ga_moist"]
    assert "ha de ser un número de 0 a 100 %, y es 150" in marked[0][1]
    assert page.run("[document.activeElement.name, said.innerText]") == ["dma_prot", "Hay 2 datos que revisar: están marcados."]
    assert ask(page, {"dma_prot": "50", "ga_moist": "80"})["score"] in range(1, 6)
    assert page.run("form.querySelectorAll('[aria-invalid]').length") == 0


def test_what_the_model_had_never_seen_is_told(page: Page, cats: Server, voyage: Server) -> None:
    page.open(cats.address)
    assert ask(page, {"dma_prot": "99"})["score"] in range(1, 6)
    assert "el modelo solo puede suponer" in page.run("said.innerText")
    page.open(voyage.address)
    page.run("fields.find(field => field.name === 'port').append(new Option('Nantucket'))")
    assert ask(page, {"port": "Nantucket"})["unseen"] == ["port"]
    assert "El modelo no conocía lo que pone en «Puerto»" in page.run("said.innerText")


def test_it_asks_for_the_key_and_keeps_it_in_the_tab(page: Page, cats: Server, tierra: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sin clave, lo dice y lleva a la casilla; con ella, contesta y la recuerda al recargar; no va en la dirección ni en la página."""
    monkeypatch.setenv("TIERRA_API_KEY", "gatos:la-clave-de-los-gatos-que-nadie-sabe")
    folder = re.search(r"--model (\S+)", " ".join(map(str, cats.process.args)))[1]
    with serving(tierra, Path(folder).parent, "--model", folder) as server:
        page.open(server.address)
        assert ask(page, {}) is None
        assert page.run("[document.activeElement.id, $('safe').open, said.innerText.includes('clave')]") == ["key", True, True]
        page.run("key.value = 'la-clave-de-los-gatos-que-nadie-sabe'; key.dispatchEvent(new Event('change'))")
        assert ask(page, {})["score"] in range(1, 6)
        assert "Authorization: Bearer CLAVE" in page.run("$('curl').textContent")
        page.open(server.address)
        assert ask(page, {})["score"] in range(1, 6)
        page.run("sessionStorage.clear()")


def test_a_server_that_is_gone_is_told(page: Page, cats: Server) -> None:
    page.open(cats.address)
    page.run("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    assert ask(page, {}) is None
    assert page.run("said.innerText") == "La API no contesta: comprueba que sigue en marcha."


# ── A quién estorba ─────────────────────────────────────────────────────────


def test_nothing_comes_from_outside_and_nothing_else_runs(page: Page, cats: Server) -> None:
    """Ni una petición a otra máquina, ni una queja de la política de contenido, que no deja ejecutar nada más."""
    page.requests.clear()
    page.faults.clear()
    page.open(cats.address)
    ask(page, {})
    assert {request["url"].split("/")[2] for request in page.requests if request["url"].startswith("http")} == {cats.address.split("/")[2]}
    assert page.faults == []
    page.run("const bad = document.createElement('script'); bad.textContent = 'window.hacked = 1'; document.body.append(bad)")
    assert page.run("window.hacked") is None
    assert any("Content Security Policy" in fault for fault in page.faults)
    policy = httpx.get(cats.address).headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy


def test_it_works_by_keyboard(page: Page, cats: Server) -> None:
    """Con tabulador e Intro se pulsa un ejemplo; con Intro en una casilla se pregunta."""
    page.open(cats.address)
    page.press("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Una lata de Whiskas"
    page.press("Enter", 13, "\r")
    wait_answer(page)
    for _ in range(4):
        page.press("Tab", 9)
    assert page.run("document.activeElement.name") == "dma_ash"
    page.press("Enter", 13, "\r")
    wait_answer(page, 1)
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_every_box_has_its_name_and_its_hint(page: Page, voyage: Server) -> None:
    page.open(voyage.address)
    named = page.run("fields.map(field => [field.name, field.labels.length, field.getAttribute('aria-describedby').split(' ').every(id => $(id))])")
    assert named == [[name, 1, True] for name in NAMES]
    assert page.run("[...document.querySelectorAll('[id]')].every(node => !/\\s/.test(node.id))")


@pytest.mark.parametrize("size", [PHONE, DESKTOP, (320, 640)])
def test_it_fits(page: Page, cats: Server, voyage: Server, size: tuple[int, int]) -> None:
    """Ni en el teléfono más estrecho hay que moverse de lado, y la respuesta se ve sin buscarla."""
    page.resize(size)
    try:
        for server in (cats, voyage):
            page.open(server.address)
            assert ask(page, {})
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            assert page.run("const box = said.getBoundingClientRect(); box.top >= 0 && box.top < innerHeight")
    finally:
        page.resize(DESKTOP)


@pytest.mark.skipif(not AXE.is_file(), reason="sin axe-core: TIERRA_AXE no dice dónde está axe.min.js")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_axe_has_nothing_to_say(page: Page, cats: Server, voyage: Server, size: tuple[int, int], dark: bool) -> None:
    """De día y de noche, antes de preguntar, con respuesta y con error: ninguna falta de accesibilidad seria."""
    page.resize(size, dark)
    try:
        for server, wrong in ((cats, {"dma_prot": "150"}), (voyage, {"age": "150"})):
            page.open(server.address)
            page.run(AXE.read_text(encoding="utf-8") + ";0")
            for row in (None, {}, wrong):
                if row is not None:
                    ask(page, row)
                page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
                found = page.run("axe.run().then(found => found.violations.map(({ id, impact, nodes }) => ({ id, impact, where: nodes.map(node => node.html) })))")
                assert [each for each in found if each["impact"] in SERIOUS] == []
    finally:
        page.resize(DESKTOP)
