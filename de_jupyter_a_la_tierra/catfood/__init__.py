"""El ejemplo: las comidas para gatos de CatFoodDB, de la hoja a la predicción."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
