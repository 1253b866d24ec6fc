"""A Slurm cluster of one node on this machine, for as long as a test needs it."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "srun")
_START_S = 60
_CONFIG = """
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def explain_absence():
    """Why there can be no cluster here; None if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}); apt-get install slurm-wlm"
    return None if os.geteuid() == 0 else "slurmd runs as root only"


@contextmanager
def slurm_node(folder):
    """Start munge, controller and node; yields the environment of Slurm's commands."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    ports = [_find_port() for _ in range(2)]
    (folder / "slurm.conf").write_text(
        _CONFIG.format(
            folder=folder, host=socket.gethostname().partition(".")[0], cpus=os.cpu_count(),
            controller_port=ports[0], node_port=ports[1],
        )
    )  # fmt: skip
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--{each}-file={folder}/munge.{each}" for each in ("pid", "log", "seed")]
    commands = [
        [*munge, f"--socket={folder}/munge.socket"],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    running = []
    try:
        for command in commands:
            log = (folder / f"{command[0]}.out").open("wb")
            running.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
            log.close()
            time.sleep(1)
        _wait_until_idle(environment)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _find_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _wait_until_idle(environment):
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    raise TimeoutError(f"the node did not start: {done.stdout}{done.stderr}")
