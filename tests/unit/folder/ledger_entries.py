"""Entries of a ledger: done, failed, and done too late."""

from dataclasses import replace

from mediar_infer.folder.ledger import LedgerEntry

DONE = LedgerEntry(
    file="nuclei.tif",
    status="done",
    started_at="2026-01-02T03:04:05+00:00",
    height=2000,
    width=1500,
    dtype="uint16",
    plan={"name": "paper", "flips": ["identity", "horizontal", "vertical"], "overlap": 0.6},
    stages_s={"read": 0.25, "network": 20.0},
    wall_s=24.5,
    budget={"scale": 0.85, "plan": {"name": "single", "flips": ["identity"]}, "changes": []},
    n_cells=310,
    warnings=("2 channels: a third of zeros was added",),
    weights={"a.safetensors": "ab" * 32},
    versions={"torch": "2.11.0"},
    device="cpu",
    peak_memory_bytes={"host": 1_000_000_000},
    output="nuclei_label.tiff",
)
FAILED = LedgerEntry(
    file="torn.tif",
    status="failed",
    started_at="2026-01-02T03:05:05+00:00",
    wall_s=0.1,
    error="torn.tif: 0 bytes",
)
LATE = replace(DONE, file="late.png", height=100, width=100, wall_s=14.0)
