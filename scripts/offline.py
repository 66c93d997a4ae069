"""Ejecuta una orden sin más red que la de esta máquina: python scripts/offline.py ORDEN…

En Linux es de verdad: la orden corre en un espacio de red propio en el que solo existe 127.0.0.1, y lo heredan todos
los procesos que arranque. Donde no se puede (macOS, un contenedor que no lo permite) se dice y se sigue con red; con
OFFLINE=strict, se para.
"""
import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def _unshare(flags: int) -> None:
    """Separa este proceso de la red (y, si se pide, de los usuarios) del resto."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _raise_loopback() -> None:
    """Enciende 127.0.0.1, que en un espacio de red nuevo está apagado."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def leave_network() -> None:
    """Deja a este proceso y a sus hijos con 127.0.0.1 y nada más; `OSError` si el sistema no lo permite."""
    if sys.platform != "linux":
        raise OSError("solo se puede en Linux")
    if os.geteuid() == 0:
        _unshare(CLONE_NEWNET)
    else:
        user, group = os.getuid(), os.getgid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _raise_loopback()


def main(command: list[str]) -> None:
    """Se sale de la red y se convierte en la orden."""
    try:
        leave_network()
        os.environ.update(TIERRA_OFFLINE="1", UV_OFFLINE="1", PIP_NO_INDEX="1")
    except OSError as error:
        if os.environ.get("OFFLINE") == "strict":
            sys.exit(f"No se puede cortar la red ({error}), y OFFLINE=strict lo exige.")
        print(f"Aviso: no se puede cortar la red ({error}); las pruebas siguen con ella.", file=sys.stderr)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
