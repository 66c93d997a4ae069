"""¿Crecen el tiempo y la memoria más deprisa que los datos? De 10⁵ a 10⁶ comidas simuladas.

Cada paso corre en su propio proceso y se mide desde fuera. Al lado, lo que importa: cuánto cuesta
diez veces más datos, descontado lo que cuesta arrancar. Hasta 10 es, como mucho, lineal.

    python bench/scale.py [FILAS …]        por defecto: 1000 100000 1000000
"""
import sys
import tempfile
from pathlib import Path

from peak import measure

TIERRA = Path(sys.executable).with_name("tierra")
STEPS = {
    "generar y escribir": ["data", "--rows", "{n}"],
    "leer y limpiar": ["run", "--pipeline", "data_processing"],
    "puntuar (prediction)": ["predict", "data/01_raw/catfood_simulated.csv", "scored.csv"],
}


def main() -> None:
    """Mide los tres pasos con cada tamaño y enseña la tabla y las razones."""
    sizes = [int(text) for text in sys.argv[1:]] or [1000, 100_000, 1_000_000]
    results: dict[str, list[tuple[float, float]]] = {step: [] for step in STEPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (["data", "--rows", "3165"], ["run"]):
            measure([TIERRA, *command], folder)
        for n in sizes:
            for step, command in STEPS.items():
                spent = measure([TIERRA, *(word.format(n=n) for word in command)], folder)
                results[step].append((spent["seconds"], spent["peak_mb"]))
    print(f"{'paso':<22}{'filas':>10}{'segundos':>10}{'MiB':>8}{'× tiempo':>10}{'× memoria':>11}")
    for step, measured in results.items():
        base_seconds, base_mib = measured[0]
        for i, (n, (seconds, mib)) in enumerate(zip(sizes, measured, strict=True)):
            ratios = ""
            if i > 1:
                before_seconds, before_mib = measured[i - 1]
                grown = (seconds - base_seconds) / max(before_seconds - base_seconds, 0.01)
                grown_mib = (mib - base_mib) / max(before_mib - base_mib, 1)
                ratios = f"{grown:>10.1f}{grown_mib:>11.1f}"
            print(f"{step:<22}{n:>10}{seconds:>10.1f}{mib:>8.0f}{ratios}")


if __name__ == "__main__":
    main()
