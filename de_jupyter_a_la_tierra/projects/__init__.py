"""Un proyecto de Kedro en una carpeta: encontrarlo, abrir una sesión y contar lo que falla."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
