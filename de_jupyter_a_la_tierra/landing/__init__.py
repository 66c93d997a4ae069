"""De una hoja, o de este libro, a un proyecto que se sostiene solo."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
