"""
The command line. One file a command group, each with `app`, a Typer application; `main.py` names them all.
"""
