"""Several jax processes for the price of one start: an interpreter imports, then forks them before jax has threads."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORKS = """
import os, socket, sys, traceback, warnings
warnings.filterwarnings("ignore", message=".*fork.*")

def ended(*runs):
    \"\"\"Exit statuses of functions, each called in a fork of its own, all at once.\"\"\"
    pids = []
    for run in runs:
        pids.append(os.fork())
        if pids[-1] == 0:
            status = 1
            try:
                run()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

def together(count, run):
    \"\"\"Calls run() in `count` processes of one jax.distributed job, with a CPU device each.\"\"\"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"

    def member(index):
        import jax
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, num_processes=count, process_id=index)
        run()
        jax.distributed.shutdown()  # waits: a first process that is gone takes the others with it

    found = ended(*(lambda i=i: member(i) for i in range(count)))
    assert found == [0] * count, (count, found)
"""


def xla_flags(devices: int = 1) -> str:
    """The flags of the suite (conftest.py), with which a program compiles soonest, for a process of few devices."""
    return re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])


def interpreter(code: str, *arguments: str, timeout: float = 500) -> tuple[int, str, str]:
    """Exit status, output and errors of code in a fresh interpreter that has `ended` and `together`."""
    env = {
        **os.environ,
        "XLA_FLAGS": xla_flags(),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", FORKS + textwrap.dedent(code), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr
