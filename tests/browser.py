"""Un Chromium de verdad, sin ventana, para las pruebas que abren una página."""
import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESKTOP = (390, 844), (1280, 900)


class Page:
    """Una pestaña, y lo que ha pasado en ella."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=30, suppress_origin=True)
        self._last, self.requests, self.faults = 0, [], []  # lo que ha pedido, y lo que ha fallado o le han prohibido
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Da una orden a la pestaña y espera su respuesta."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = self._receive()
            if message.get("id") == self._last:
                assert "error" not in message, message["error"]
                return message["result"]

    def close(self) -> None:
        """Deja la pestaña."""
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        """El siguiente mensaje; si es un suceso, se apunta."""
        message = json.loads(self._socket.recv())
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.faults.append(params["exceptionDetails"].get("exception", {}).get("description", "?"))
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(params["entry"]["text"])
        return message

    def open(self, url: str) -> None:
        """Va a una dirección y espera a que esté entera."""
        self.send("Page.navigate", url=url)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Lo que vale un trozo de JavaScript; si es una promesa, lo que acabe valiendo."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def resize(self, size: tuple[int, int], dark: bool = False) -> None:
        """Cambia el tamaño de la ventana, y si es de noche."""
        self.send("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}])

    def press(self, key: str, code: int, text: str = "") -> None:
        """Pulsa una tecla."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def photograph(self, path: Path) -> None:
        """Guarda una foto de la página entera."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """Abre un navegador con una pestaña en blanco y, al salir, lo cierra."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
    process = subprocess.Popen([CHROMIUM, *options, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "listening on ws://" in line)
        port = line.partition("ws://")[2].partition("/")[0]
        with urllib.request.urlopen(f"http://{port}/json/list") as reply:
            found = next(each for each in json.load(reply) if each["type"] == "page")
        page = Page(found["webSocketDebuggerUrl"])
        try:
            yield page
        finally:
            page.close()
    finally:
        process.terminate()
        process.communicate(timeout=20)
