"""``vader`` without the seconds that imports take: a server imports once, and forks for each command.

Started as ``python -m tests.warm SOCKET``. A command (:func:`client`) passes its arguments, folder, environment and
standard streams on; a fork becomes that command, and what it exits with is passed back. The server itself never
computes, so that a fork finds torch as a fresh process would.
"""

from __future__ import annotations

import array
import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])

CLIENT = """#!{python} -ISE
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
said = json.dumps([{module!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
server.sendmsg([len(said).to_bytes(8, "big")], streams)
server.sendall(said)
code = server.recv(8)
sys.exit(int(code) if code else 1)
"""


def client(path: Path, module: str, where: Path) -> None:
    """Write a program that runs a module by the server at ``where``."""
    path.write_text(CLIENT.format(python=sys.executable, socket=str(where), module=module))
    path.chmod(0o755)


def serve(where: str) -> None:
    """Accept commands until the process is killed."""
    for module in ("diffusers", "imageio", "peft", "accelerate", "vader.cli.app", "vader.runs.training"):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(where + ".new")
    listener.listen()
    Path(where + ".new").rename(where)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _handle(connection)
        connection.close()


def _handle(connection: socket.socket) -> None:
    """Fork the command, and end it when its client has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    size, said = int.from_bytes(head, "big"), b""
    while len(said) < size:
        said += connection.recv(size - len(said))
    child = os.fork()
    if child == 0:
        connection.close()
        os.setsid()
        _become(list(streams), *json.loads(said))
    for stream in streams:
        os.close(stream)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if select.select([connection], [], [], 0.02)[0]:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os._exit(1)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _become(streams: list[int], module: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the command: never returns."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = own + [path for path in sys.path if path not in ("", ROOT)]
    importlib.invalidate_caches()
    sys.argv = [module, *arguments]
    code: object = 0
    try:
        if module == "-c":
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
