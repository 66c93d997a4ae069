"""`python -m de_jupyter_a_la_tierra` es lo mismo que `tierra`."""
from de_jupyter_a_la_tierra.cli.main import main

main()
