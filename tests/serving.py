"""Un `tierra serve` de verdad, en otro proceso, para las pruebas que le preguntan."""
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


class Server:
    """Un proceso de `tierra serve` en marcha."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.said = process, []
        for line in process.stdout:
            self.said.append(line)
            if line.strip().startswith("curl"):
                break
        assert self.said and "curl" in self.said[-1], "".join(self.said) + process.stderr.read()
        self.address = re.search(r"http://[^/,]+", self.said[1])[0]
        self.port = int(self.address.rpartition(":")[2])

    def ask(self, content: Any, path: str = "/predict_score") -> httpx.Response:
        """Manda una petición: unos bytes tal cual, o lo que sea en JSON."""
        kind = {"content": content} if isinstance(content, bytes) else {"json": content}
        return httpx.post(self.address + path, timeout=60, **kind)


@contextmanager
def serving(tierra: Callable, cwd: Path, *args: str | Path) -> Iterator[Server]:
    """Arranca `tierra serve` en un puerto libre y, al salir, lo termina."""
    command = [tierra.path, "serve", "--port", "0", *args]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def pack_bomb(piece: bytes, times: int) -> bytes:
    """Un gzip de unos bytes repetidos muchas veces, sin comprimirlos cada vez: un bloque que vale por sí solo, y ese bloque repetido."""
    packer, mark = zlib.compressobj(9, wbits=-15), 0
    block = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(times):
        mark = zlib.crc32(piece, mark)
    size = len(piece) * times % 2**32
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * times + b"\x03\0" + mark.to_bytes(4, "little") + size.to_bytes(4, "little")
