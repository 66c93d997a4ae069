"""Nada llama a casa: las pruebas corren sin más red que 127.0.0.1, y así se nota si algo la necesita."""
import os
import socket

import pytest

OFFLINE = pytest.mark.skipif(
    os.environ.get("TIERRA_OFFLINE") != "1", reason="aquí hay red: «make test» la corta donde el sistema lo permite"
)


@OFFLINE
def test_the_outside_cannot_be_reached():
    """Una dirección pública no se alcanza: el sistema dice al momento que no hay camino."""
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 443), timeout=5)


@OFFLINE
def test_this_machine_can_be_reached():
    """127.0.0.1, sí: los servidores de las pruebas viven ahí."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
