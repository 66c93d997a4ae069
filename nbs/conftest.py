"""Los capítulos son pruebas largas: cada uno entrena varios modelos, y algunos arrancan servidores."""
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marca las celdas de los capítulos (00_…) desde la etapa 2; corren con «make test-long»."""
    for item in items:
        if item.path.name.startswith("00_") and item.path.parent.name != "1_libreta" and item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.long)
