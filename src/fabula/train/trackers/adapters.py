"""How is a number, a text, a setting said to each tracker? One class each; they run in a process of their own.

Each library is imported inside `start`, after what it reads from the environment was set, and with everything it does
by itself switched off: reading git, source code, consoles, other libraries; telemetry; asking to log in.
"""

from __future__ import annotations

import html
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Settings = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is filed. `previous` is what `start` returned when this run was started before, or empty."""

    project: str
    name: str
    folder: Path
    online: bool
    previous: str = ""


class Tracker:
    """What every tracker answers. Whatever it raises switches it off; the run goes on."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def start(self, settings: Settings) -> str:
        """Begin or go on; returns what is needed to go on another time."""
        raise NotImplementedError

    def look(self) -> str:
        """How a person sees what was tracked: a command, or an address."""
        raise NotImplementedError

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a step; steps increase but for the last values of a run that was killed."""
        raise NotImplementedError

    def text(self, step: int, name: str, text: str) -> None:
        """A text of a step."""
        raise NotImplementedError

    def flush(self) -> None:
        """Make what was said so far safe, where that can be asked for."""

    def finish(self) -> None:
        """Nothing more comes in this process."""


class TensorBoard(Tracker):
    """Event files, written without TensorFlow and without torch."""

    def start(self, settings: Settings) -> str:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.place.folder.mkdir(parents=True, exist_ok=True)
        folder = self.place.folder / self.place.previous if self.place.previous else self._new_folder()
        self._writer = EventFileWriter(str(folder))
        if not self.place.previous:
            rows = "\n".join(f"    {name} = {value}" for name, value in settings.items())
            self.text(0, "settings", rows)
        return folder.name

    def _new_folder(self) -> Path:
        """A folder that no other run has, where runs share a store."""
        folder, number = self.place.folder / self.place.name, 1
        while folder.exists():
            number += 1
            folder = self.place.folder / f"{self.place.name}-{number}"
        return folder

    def look(self) -> str:
        return f"tensorboard --logdir {self.place.folder}"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode("utf-8")], tensor_shape=shape)
        kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(step, [Summary.Value(tag=name, metadata=kind, tensor=tensor)])

    def _add(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """wandb. Offline it keeps a folder that `wandb sync` sends; a resumed run is a second folder of the same run."""

    def start(self, settings: Settings) -> str:
        os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
        os.environ["WANDB_MODE"] = mode = "online" if self.place.online else "offline"
        self.place.folder.mkdir(parents=True, exist_ok=True)
        import wandb

        self._run = wandb.init(
            project=self.place.project,
            name=self.place.name,
            id=self.place.previous or uuid.uuid4().hex[:8],
            resume="allow" if self.place.online else None,
            dir=self.place.folder,
            mode=mode,
            config=dict(settings),
            settings=wandb.Settings(
                console="off", disable_git=True, disable_code=True, save_code=False, silent=True, x_disable_stats=True
            ),
        )
        # Its own counter must increase by one process; ours is the step of the run.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def look(self) -> str:
        return (
            str(self._run.url) if self.place.online else f"wandb sync --append {self._run.dir.removesuffix('/files')}"
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        import wandb

        self._run.log({"step": step, name: wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)})

    def finish(self) -> None:
        self._run.finish()


class Comet(Tracker):
    """comet-ml. Offline it keeps an archive for `comet upload`; a resumed run is a second one of the same key."""

    def start(self, settings: Settings) -> str:
        os.environ |= {
            "COMET_DISABLE_AUTO_LOGGING": "1",
            "COMET_LOGGING_CONSOLE": "error",
            "COMET_DISABLE_ANNOUNCEMENT": "1",
            "COMET_ERROR_TRACKING_ENABLE": "0",
        }
        self.place.folder.mkdir(parents=True, exist_ok=True)
        import comet_ml

        going_on = bool(self.place.previous)
        self._experiment = comet_ml.start(
            project_name=self.place.project,
            experiment_key=self.place.previous or None,
            mode="get" if going_on else "create",
            online=self.place.online,
            experiment_config=comet_ml.ExperimentConfig(
                name=self.place.name,
                offline_directory=str(self.place.folder),
                display_summary_level=0,
                log_code=False,
                log_graph=False,
                parse_args=False,
                log_git_metadata=False,
                log_git_patch=False,
                log_env_details=False,
                auto_output_logging="",
                auto_param_logging=False,
                auto_metric_logging=False,
                auto_log_co2=False,
            ),
        )
        if not going_on:
            self._experiment.log_parameters(dict(settings))
        return str(self._experiment.get_key())

    def look(self) -> str:
        return str(self._experiment.url) if self.place.online else f"comet upload {self.place.folder}/*.zip"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._experiment.log_metrics(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._experiment.log_text(text, step=step, metadata={"name": name})

    def finish(self) -> None:
        self._experiment.end()


class Trackio(Tracker):
    """trackio: a local database; online it is sent to the Space or server that its own variables name."""

    def start(self, settings: Settings) -> str:
        if not self.place.online:
            for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL", "TRACKIO_BUCKET_ID"):
                os.environ.pop(name, None)
            os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        os.environ["TRACKIO_DIR"] = str(self.place.folder)
        import trackio

        name = self.place.previous or self.place.name
        self._run = trackio.init(
            project=self.place.project,
            name=name,
            config=dict(settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return name

    def look(self) -> str:
        return f"TRACKIO_DIR={self.place.folder} trackio show"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        import trackio

        self._run.log({name: trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def finish(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """MLflow: a local SQLite store; online the server that MLFLOW_TRACKING_URI names."""

    def start(self, settings: Settings) -> str:
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        if not self.place.online:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            self.place.folder.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=None if self.place.online else self._store())
        if self.place.previous:
            self._run = self.place.previous
            self._client.update_run(self._run, status="RUNNING")
            return self._run
        found = self._client.get_experiment_by_name(self.place.project)
        if found is None:
            files = None if self.place.online else (self.place.folder / "files").absolute().as_uri()
            experiment = self._client.create_experiment(self.place.project, artifact_location=files)
        else:
            experiment = found.experiment_id
        self._run = str(self._client.create_run(experiment, run_name=self.place.name).info.run_id)
        params = [Param(name, str(value)[:500]) for name, value in settings.items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._run, params=params[start : start + 100])
        return self._run

    def _store(self) -> str:
        return f"sqlite:///{(self.place.folder / 'mlflow.db').absolute()}"

    def look(self) -> str:
        if self.place.online:
            return str(os.environ.get("MLFLOW_TRACKING_URI"))
        return f"mlflow ui --backend-store-uri {self._store()}"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(n, v, now, step) for n, v in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        self._client.log_text(self._run, text, f"{name}/step-{step:06d}.txt")

    def finish(self) -> None:
        self._client.set_terminated(self._run)
