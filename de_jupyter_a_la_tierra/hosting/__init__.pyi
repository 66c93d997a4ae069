from .protocol import open_socket as open_socket
from .protocol import run_server as run_server
from .resolver import ModelWatcher as ModelWatcher
from .resolver import find_model as find_model
from .shadow import Shadow as Shadow
from .shelf import WatchingShelf as WatchingShelf
from .shelf import build_shelf_routes as build_shelf_routes
