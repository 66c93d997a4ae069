"""Los procesos calientes en los que se ejecutan los cuadernos."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
