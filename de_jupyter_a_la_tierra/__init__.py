__version__ = "0.2.0"

import lazy_loader

from .moved import forward

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
forward()
