"""A Dask cluster of Slurm jobs, and a folder segmented on it (needs dask-jobqueue)."""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

if __name__ == "__main__":
    cluster = SLURMCluster(cores=4, processes=1, memory="6GB", walltime="02:00:00")
    cluster.scale(jobs=10)
    command = ["mediar-infer", "predict", *sys.argv[1:], "--dask", cluster.scheduler_address]
    sys.exit(subprocess.run(command, check=False).returncode)
