"""MLflow: a store in `mlflow/` of the work folder, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from backbones.registry import VISBACKENDS
from backbones.training.trackers import Place, Tracker

FOLDER = 'mlflow'
MOST_WAITING = 1000  # points for a server that does not answer; later ones are lost
LAST_WAIT = 60  # seconds that a run waits in the end for what is still to be sent
PATIENCE = dict(MLFLOW_HTTP_REQUEST_MAX_RETRIES='3', MLFLOW_HTTP_REQUEST_TIMEOUT='20')  # MLflow's own: some 20 minutes
MOST_PARAMETERS, LONGEST_PARAMETER = 200, 250
PARAMETERS = ('model', 'optim_wrapper', 'train_cfg', 'param_scheduler', 'train_dataloader', 'total_batch', 'randomness',
              'precision', 'load_from')


@VISBACKENDS.register_module()
class MLflowVisBackend(Tracker):
    """MMEngine's MLflowVisBackend with steps, behind the training: a server that does not answer holds nobody up.

    Args:
        save_dir: MMEngine's.
        required: as `Tracker`.
        exp_name: the experiment; default `MLFLOW_EXPERIMENT_NAME`, or 'mmbackbones'.
    """

    name = 'mlflow'

    def __init__(self, save_dir: str, required: bool = False, exp_name: str | None = None) -> None:
        super().__init__(save_dir, required)
        self.exp_name = exp_name
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._client: Any = None
        self._run_id = ''

    @property
    def experiment(self) -> Any:
        """MLflow's client."""
        self._init_env()
        return self._client

    def start(self, place: Place, state: dict[str, Any]) -> None:
        """Begin a run, or go on with the one that `state` names."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        uri = os.environ.get('MLFLOW_TRACKING_URI') or local_store(place.work_dir.resolve() / FOLDER)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        if not state:
            self.forget()
        self._run_id = ''
        if isinstance(state.get('id'), str):
            try:
                self._client.update_run(state['id'], status='RUNNING')
                self._run_id = state['id']
            except MlflowException as error:
                print_log(f'mlflow: run {state["id"]} is not in {uri} ({" ".join(str(error).split())[:120]}); a new '
                          'one begins', logger='current')
                self._marks = {}
        if not self._run_id:
            experiment = self._experiment_id(place)
            self._run_id = self._client.create_run(experiment, run_name=place.work_dir.resolve().name).info.run_id
            self.remember(id=self._run_id)
        print_log(f'mlflow: run {self._run_id} in {uri}', logger='current')
        threading.Thread(target=self._work, daemon=True, name='mlflow').start()

    def _experiment_id(self, place: Place) -> str:
        name = self.exp_name or os.environ.get('MLFLOW_EXPERIMENT_NAME') or 'mmbackbones'
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        local = not os.environ.get('MLFLOW_TRACKING_URI')
        place_of_files = (place.work_dir.resolve() / FOLDER / 'artifacts').as_uri() if local else None
        return self._client.create_experiment(name, artifact_location=place_of_files)

    def write_config(self, config: Config) -> None:
        """Whole as `config.json`, and what differs between runs as parameters, which MLflow compares."""
        from backbones.training.run_record import plain

        data = plain(config.to_dict())
        flat = flattened({key: data[key] for key in PARAMETERS if key in data})
        chosen = {key: text for key, value in flat.items() if len(text := str(value)) <= LONGEST_PARAMETER}
        self._later(lambda: self._send_config(dict(list(chosen.items())[:MOST_PARAMETERS]), json.dumps(data, indent=1)))

    def _send_config(self, parameters: dict[str, str], text: str) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params  # MLflow refuses another value for one of them
        new = [Param(allowed(key), value) for key, value in parameters.items() if allowed(key) not in known]
        for first in range(0, len(new), 100):  # as many as MLflow takes at once
            self._client.log_batch(self._run_id, params=new[first:first + 100])
        self._client.log_text(self._run_id, text, 'config.json')

    def write_scalars(self, values: dict[str, float], step: int, kind: str) -> None:
        """One request for all numbers."""
        moment = int(time.time() * 1000)
        self._later(lambda: self._send(values, step, kind, moment))

    def _send(self, values: dict[str, float], step: int, kind: str, moment: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(allowed(name), value, moment, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)
        self.mark(kind, step)

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Under "Artifacts"."""
        from PIL import Image

        file = f'{allowed(name)}_step{step:08d}.jpg'
        self._later(lambda: self._client.log_image(self._run_id, Image.fromarray(image), artifact_file=file))

    def finish(self, code: int) -> None:
        """Send what waits, as far as that is possible in a minute, and say how the run ended."""
        status = 'FINISHED' if code == 0 else 'KILLED' if code in (85, 130) else 'FAILED'
        done = threading.Event()

        def last() -> None:
            try:
                self._client.set_terminated(self._run_id, status)
            finally:
                done.set()

        self._later(last)
        if not done.wait(LAST_WAIT):
            raise TimeoutError(f'{self._waiting.qsize()} points could not be sent')

    def _later(self, action: Callable[[], None]) -> None:
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            raise TimeoutError(f'the server has not answered for {MOST_WAITING} points') from None

    def _work(self) -> None:
        """In a thread of its own: one after the other; what fails is a warning."""
        while True:
            action = self._waiting.get()
            try:
                action()
                self._warned = False
            except Exception as error:  # whatever MLflow and its requests raise
                self._warn(error)


def local_store(folder: Path) -> str:
    """The address of a store in `folder`: SQLite where MLflow can use it, else files."""
    folder.mkdir(parents=True, exist_ok=True)
    if all(importlib.util.find_spec(name) for name in ('sqlalchemy', 'alembic')) and not (folder / 'files').exists():
        return f'sqlite:///{folder / "mlflow.db"}'
    os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')  # MLflow 3.14 and later ask for it
    return (folder / 'files').as_uri()


def flattened(data: Any, above: str = '') -> dict[str, Any]:
    """Nested dicts and lists of dicts as one dict with dotted names."""
    if isinstance(data, dict):
        pairs = data.items()
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        pairs = enumerate(data)
    else:
        return {above: data}
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.update(flattened(value, f'{above}.{key}' if above else str(key)))
    return found


def allowed(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r'[^\w\-. /]', '_', name, flags=re.ASCII)[:240]
