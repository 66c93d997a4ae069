"""La orden `tierra` en un proceso suyo que ya nace con lo que pesa importado: se bifurca, por cada orden, de otro que solo ha hecho eso.

Lo usan las pruebas que llaman a la orden cientos de veces. Lo que depende de cómo se arranca (señales, límites, la rueda) la llama por su ruta, `tierra.path`, como una persona.
"""
import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path

HEAVY = (  # sin onnxruntime, que no deja acabar a un bifurcado, ni kedro.runner, que al importarse decide adónde van los avisos
    "fsspec", "kedro.io", "kedro.pipeline", "kedro_datasets.pandas", "matplotlib.pyplot", "mlflow.pyfunc", "mlflow.tracking",
    "omegaconf", "pandas", "pyarrow.parquet", "rich.logging", "skl2onnx", "sklearn.ensemble", "sklearn.linear_model",
    "sklearn.model_selection", "sklearn.pipeline", "skops.io",
)


class WarmCommand:
    """Una orden instalada, ejecutada por un proceso que la espera con todo importado."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Arranca el que espera; él importa y ya no hace más que bifurcarse."""
        self.channel, theirs = socket.socketpair()
        command = [sys.executable, "-P", __file__, str(theirs.fileno()), str(self.path)]
        self.server = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True,
        )
        theirs.close()

    def stop(self) -> None:
        """Acaba con él y con lo que esté haciendo."""
        if self.server is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            self.channel.close()
            self.server = None

    def run(self, args: list[str], cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Ejecuta la orden con esos argumentos, en esa carpeta y con ese entorno; `TimeoutExpired` si no acaba."""
        if self.server is None or self.server.poll() is not None:
            self.stop()
            self.start()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            order = json.dumps({"args": args, "cwd": str(cwd), "env": env}).encode()
            socket.send_fds(self.channel, [len(order).to_bytes(4, "big")], [out.fileno(), err.fileno()])
            self.channel.sendall(order)
            self.channel.settimeout(timeout)
            try:
                code = self.channel.recv(16)
            except BaseException as error:
                self.stop()
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(args, timeout) from None
                raise
            said = [file.read().decode(errors="replace") for file in (out, err) if not file.seek(0)]
        assert code, f"{args}: se ha ido quien debía ejecutarla\n{said[1]}"
        return subprocess.CompletedProcess([self.path, *args], int(code), *said)


def wait_for_orders(channel: socket.socket) -> dict[str, object]:
    """Bifurca un proceso por orden; solo vuelve en los que nacen así, con lo que han de hacer."""
    while True:
        size, fds, _, _ = socket.recv_fds(channel, 4, 2)
        if not size:
            sys.exit()
        order = json.loads(channel.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        if (child := os.fork()) == 0:
            for number, fd in enumerate(fds, 1):
                os.dup2(fd, number)
                os.close(fd)
            channel.close()
            return order
        for fd in fds:
            os.close(fd)
        channel.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def main() -> None:
    """Importa, espera, y en cada proceso que nace hace de la orden."""
    channel, path = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
    for name in HEAVY:
        with suppress(ImportError):
            import_module(name)
    gc.freeze()
    order = wait_for_orders(channel)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv[:] = [path, *order["args"]]
    sys.path.insert(0, str(Path(path).parent))
    from de_jupyter_a_la_tierra.cli.main import main as command

    code: int | str = 0
    try:
        command()
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    threading._shutdown()
    atexit._run_exitfuncs()
    os._exit(code)  # deshacer uno a uno los módulos heredados cuesta más que la orden


if __name__ == "__main__":
    main()
