"""La API en producción: el puerto, los procesos, las claves, las métricas y el modelo que toca servir."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
