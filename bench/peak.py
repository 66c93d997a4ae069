"""Lo que gasta una orden, medido por alguien pequeño.

Linux empieza a contar lo más que ocupó un proceso por lo que ocupaba quien lo arrancó: si las mediciones las hace quien acaba de simular
un millón de filas, todo parece ocupar lo que él. Por eso entre los dos hay otro proceso, que no tiene nada dentro.
"""
import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def measure(command: list[str | Path], cwd: Path) -> dict[str, float]:
    """Segundos de reloj y de procesador, y MiB de memoria máxima, de una orden que va bien."""
    small = [sys.executable, "-S", __file__, *map(str, command)]
    done = subprocess.run(small, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if done.returncode:
        raise SystemExit(f"falló: {' '.join(map(str, command[:2]))} …")
    return json.loads(done.stdout)


def main() -> None:
    """Ejecuta una orden y dice en un JSON lo que ha gastado."""
    start = time.perf_counter()
    code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
    seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss * unit / 2**20}))
    sys.exit(code)


if __name__ == "__main__":
    main()
