"""Where and how a run is computed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how a run is computed; changes speed, not the result beyond rounding."""

    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""
    processes: int = 1
    """Data-parallel processes, which share every batch; with CUDA one GPU each."""
    threads: int = 0
    """CPU threads per process; 0 keeps torch's choice."""
    resume: bool = False
    """Keep finished stages and continue started ones; without it, both are an error."""

    def limit_threads(self) -> None:
        """Limit torch to this number of threads in this process, for training and scoring."""
        if self.threads:
            import torch  # takes seconds, which --help need not

            torch.set_num_threads(self.threads)
