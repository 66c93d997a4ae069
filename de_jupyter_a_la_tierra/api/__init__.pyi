from .page import build_page as build_page
from .payload import PayloadError as PayloadError
from .payload import PayloadReader as PayloadReader
from .payload import build_openapi as build_openapi
from .server import ModelService as ModelService
from .server import build_app as build_app
from .server import run_server as run_server
