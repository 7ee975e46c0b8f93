"""Writing of checkpoints in a thread, while training continues."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from beeline.core.errors import BeelineError, require
from beeline.core.protocols.training import Parallel
from beeline.training.checkpoint import MANIFEST, STAGED, Checkpoint, clean_up, flush, publish
from beeline.training.distributed.parallel import SingleDevice, local_device


class Writer:
    """Writes checkpoints one at a time in a thread; rank 0 writes, and all processes where parameters are sharded.

    The files are written to a staging directory, the manifest with their hashes last, and flushed to disk before one
    rename.  A process that dies at any moment leaves the earlier checkpoints intact.  ``submit`` and ``wait`` are
    called by all processes; they raise BeelineError in all of them if the last checkpoint could not be written.
    """

    def __init__(self, engine: Parallel):
        self.engine = engine
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._job: Future[Any] | None = None
        self._group: Any = None  # of the threads: their collective operations must not mix with those of training
        self._last: tuple[int, Path] | None = None  # the step that is being written, and its directory

    def submit(self, root: Path, checkpoint: Checkpoint, keep: int = 3, protect: int = 0) -> None:
        """Copy a checkpoint to the CPU and start to write it, after the previous one.

        All but the newest ``keep``, permanent ones and that of step ``protect`` are deleted afterwards.
        """
        self.wait()
        name = f"step-{checkpoint.step:08d}"
        staged, self._last = root / f"{STAGED}{name}", (checkpoint.step, root)
        with self._together():
            if self.engine.rank == 0:
                root.mkdir(parents=True, exist_ok=True)
                clean_up(root)
                staged.mkdir()
                (staged / "state.json").write_text(json.dumps(checkpoint.state, indent=1))
        shards: Future[Any] | None = None
        if self.engine.shards:
            with self._together():
                shards = self._job = self._save_shards(staged, checkpoint)
        tensors = {} if self.engine.shards or self.engine.rank else on_cpu(checkpoint.tensors)

        def finish() -> None:
            for group, named in tensors.items():
                save_file({f"{group}/{k}": v for k, v in named.items()}, staged / f"{group}.safetensors")
            if shards is not None:
                shards.result()
            hashes = {path.name: flush(path) for path in sorted(staged.iterdir())}
            path = staged / MANIFEST
            path.write_text(json.dumps({"format": 1, "step": checkpoint.step, "sha256": hashes}, indent=1))
            flush(path)
            flush(staged)
            publish(root, staged, name, keep, protect)

        if self.engine.rank == 0:
            self._job = self._threads.submit(finish)

    def failed(self) -> bool:
        """Whether it is known in this process, without waiting, that the last checkpoint could not be written."""
        return self._job is not None and self._job.done() and self._job.exception() is not None

    def wait(self) -> None:
        """Wait until the last checkpoint is written."""
        if self._last is None:
            return
        with self._together():
            if self._job is not None:
                self._job.result()
        self._last = self._job = None

    def close(self) -> None:
        """Wait for the thread, without raising its errors."""
        self._threads.shutdown()
        if self._job is not None:
            self._job.exception()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A phase of writing: an error in one process is raised in all, and the staging directory is removed."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        failed = error is not None
        if self.engine.world > 1:
            failed = bool(self.engine.total(torch.tensor(float(failed), device=local_device())) > 0)
        if not failed:
            return
        assert self._last is not None
        (step, root), self._last, self._job = self._last, None, None
        if self.engine.rank == 0:
            shutil.rmtree(root / f"{STAGED}step-{step:08d}", ignore_errors=True)
        if error is not None and not isinstance(error, OSError) and "o space left" not in str(error):
            known = "SafetensorError" in type(error).__name__ or "CheckpointException" in type(error).__name__
            if not known:
                raise error
        reason = (error.strerror if isinstance(error, OSError) else None) or error or "another process failed to write"
        raise BeelineError(
            f"the checkpoint of step {step} could not be written to {root} ({reason}); the earlier checkpoints are "
            "intact: free disk space, or give another directory, and resume"
        ) from error

    def _save_shards(self, staged: Path, checkpoint: Checkpoint) -> Future[Any]:
        """Every process writes its shards as safetensors with their offsets (the format of torch)."""
        import torch.distributed.checkpoint as dcp

        tensors = {f"{group}/{k}": v.detach() for group, named in checkpoint.tensors.items() for k, v in named.items()}
        require(
            "HuggingFaceStorageWriter" in dir(dcp),
            f"torch {torch.__version__} cannot write sharded checkpoints as safetensors; use torch 2.8 or later for "
            "FSDP, or train with DDP",
        )
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
        writer = dcp.HuggingFaceStorageWriter(str(staged), save_distributed=True)
        started: Future[Any] = dcp.async_save(tensors, storage_writer=writer, process_group=self._group)  # type: ignore[assignment]
        return started


def on_cpu(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Copies of named tensors in the memory of the CPU, pinned for those of a CUDA device."""
    copies: dict[str, dict[str, Tensor]] = {}
    devices = set()
    for group, named in tensors.items():
        copies[group] = {}
        for name, tensor in named.items():
            cuda = tensor.device.type == "cuda"
            devices |= {tensor.device} if cuda else set()
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=cuda)
            copies[group][name] = copy.copy_(tensor.detach(), non_blocking=cuda)
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return copies


def write(root: Path, checkpoint: Checkpoint, keep: int = 3, engine: Parallel | None = None, protect: int = 0) -> Path:
    """Write a checkpoint and wait for it; returns its directory."""
    writer = Writer(engine or SingleDevice())
    try:
        writer.submit(root, checkpoint, keep, protect)
        writer.wait()
    finally:
        writer.close()
    return root / f"step-{checkpoint.step:08d}"
