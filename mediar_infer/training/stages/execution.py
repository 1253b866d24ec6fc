"""Where and how a run is computed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how a run is computed; changes speed, not the result beyond rounding."""

    device: str = "auto"
    """As for inference."""
    n_processes: int = 1
    """Processes that share every batch; with CUDA one GPU each."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's choice."""
    resume: bool = False
    """Keep finished stages and go on with started ones; otherwise they are an error."""

    def limit_threads(self) -> None:
        """Let torch use so many threads in this process, for training and scoring."""
        if self.threads:
            torch.set_num_threads(self.threads)
