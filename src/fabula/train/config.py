"""The [train] section of a recipe. Apart from `run.py` so that checking a recipe does not import the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fabula.config import setting
from fabula.train.averages import AverageConfig, NoAverage
from fabula.train.budget import parse_budget
from fabula.train.optimizers import MuonConfig, OptimizerConfig
from fabula.train.schedules import ScheduleConfig, WarmupStableDecay
from fabula.train.trackers.config import TrackingConfig, check_names


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a model is trained."""

    budget: str = setting("5m", "how long: a time (90s, 5m, 1h) or 200steps, 20Mtokens, 3epochs")
    batch_tokens: int = setting(2048, "tokens in one optimizer step; rows = batch_tokens / context_length")
    micro_rows: int = setting(0, "rows that are computed at once; 0: all rows of a step; less needs less memory")
    clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping")
    isolate_documents: bool = setting(True, "attention and positions stay inside a document of a packed row")
    optimizer: OptimizerConfig = setting(factory=MuonConfig, doc="how gradients become steps")
    schedule: ScheduleConfig = setting(factory=WarmupStableDecay, doc="how the learning rate moves")
    average: AverageConfig = setting(factory=NoAverage, doc="which weights leave the run: the last, or a mean of many")
    patience: int = setting(0, "evaluations in a row without a better one that end the run; 0: it goes on to its end")
    evaluation_share: float = setting(0.05, "most of the run's time that evaluation may take")
    evaluation_rows: int = setting(
        0, "validation rows of one evaluation, spread evenly; 0: as many as evaluation_share affords on this machine"
    )
    checkpoints: int = setting(
        8, "evaluations, samples and checkpoints during the run, evenly spaced, the last at its end"
    )
    save_minutes: float = setting(
        10.0, "most minutes between two checkpoints, stretched so that saving takes below 2 %"
    )
    save_steps: int = setting(0, "most steps between two checkpoints; 0: as save_minutes says")
    failed_save: Literal["stop", "go_on"] = setting("stop", "what a checkpoint that cannot be written does to the run")
    unapplied: int = setting(3, "steps in a row with NaN or infinity that stop the run; they are never applied")
    skip_spikes: float = setting(0.0, "steps this many standard deviations above the last 128 are skipped; 0: none")
    keep: int = setting(3, "newest checkpoints that are kept, beside the best one; at least 2")
    log_every: int = setting(0, "steps between two lines of metrics; 0: about 500 lines a run")
    trackers: tuple[str, ...] = setting((), "mirrors of metrics.jsonl: tensorboard, wandb, comet, trackio, mlflow")
    tracking: TrackingConfig = setting(factory=TrackingConfig, doc="what the trackers are told")
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", "where to compute")
    precision: Literal["auto", "float32", "bfloat16", "float16", "float8"] = setting(
        "auto", "number format of the products; weights are float32 in all; auto: what measuring shows to be faster"
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto", "torch.compile; auto: in runs long enough to repay it, where measuring shows a gain"
    )
    recompute: bool = setting(
        False, "keep of a block its input alone and compute it again in the backward pass: less memory, more time"
    )
    threads: int = setting(
        0, "processor threads; 0: what OMP_NUM_THREADS says, else the fastest count where a run is long, else all cores"
    )
    parallel: Literal["ddp", "fsdp", "tensor"] = setting(
        "ddp", "how torchrun's processes share the work: whole models, parts of all weights, parts of the linears"
    )
    peer_timeout: float = setting(60.0, "seconds after which a process that is silent or hangs is given up")

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        check_names(self.trackers)
        if self.batch_tokens < 1:
            raise ValueError(f"batch_tokens={self.batch_tokens} must be at least 1")
        if self.micro_rows < 0:
            raise ValueError(f"micro_rows={self.micro_rows} must be at least 0 (0 computes all rows at once)")
        if self.clip < 0:
            raise ValueError(f"clip={self.clip} must be at least 0 (0 does not clip)")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience} must be at least 0 (0 lets the run go on to its end)")
        if self.patience >= self.checkpoints and self.patience:
            raise ValueError(
                f"patience={self.patience} never runs out in {self.checkpoints} evaluations; raise --train.checkpoints"
            )
        if not 0 < self.evaluation_share <= 0.5:
            raise ValueError(f"evaluation_share={self.evaluation_share} must be above 0 and at most 0.5")
        if self.evaluation_rows < 0:
            raise ValueError(f"evaluation_rows={self.evaluation_rows} must be at least 0 (0 leaves it to the machine)")
        if self.checkpoints < 1:
            raise ValueError(f"checkpoints={self.checkpoints} must be at least 1: the end of the run")
        if not self.save_minutes > 0:
            raise ValueError(f"save_minutes={self.save_minutes} must be above 0")
        if self.save_steps < 0:
            raise ValueError(f"save_steps={self.save_steps} must be at least 0 (0 leaves it to save_minutes)")
        if self.unapplied < 1:
            raise ValueError(f"unapplied={self.unapplied} must be at least 1")
        if not (self.skip_spikes == 0 or self.skip_spikes >= 1):
            raise ValueError(f"skip_spikes={self.skip_spikes} must be 0 or at least 1 standard deviation; 6 is usual")
        if self.keep < 2:
            raise ValueError(f"keep={self.keep} must be at least 2: the newest may be the one that is damaged")
        if not self.peer_timeout >= 1:
            raise ValueError(f"peer_timeout={self.peer_timeout} must be at least 1 second")
        if self.threads < 0:
            raise ValueError(f"threads={self.threads} must be at least 0 (0 takes every core)")
