"""Training in a notebook: a progress bar without further packages, and an interrupt of the kernel."""

import pytest

CELL = """
import os, signal
import beeline as bl
from beeline.data.image_files import Digits
from beeline.training.callbacks import CallbackBase

class Interrupt(CallbackBase):
    name, every = "interrupt", 3
    def evaluate(self, raw, ema, step):
        os.kill(os.getpid(), signal.SIGINT)  # what the stop button of a notebook sends to the kernel
        return {}

network = {"is": "networks.MLP", "width": 8, "depth": 1}
run = bl.Run(Digits(), network, training=bl.Training(steps=6, batch_size=8), sampler=bl.Sampler(2))
bl.train(run, out="r", device="cpu", live=False, callbacks=[Interrupt()])
"""
CONTINUE = 'bl.train(run, out="r", device="cpu", resume=True)'


@pytest.mark.slow
def test_a_notebook_shows_progress_and_can_be_interrupted_and_continued(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(text) for text in (CELL, CONTINUE)]
    cells[0].metadata["tags"] = ["raises-exception"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, second = (cell.outputs for cell in notebook.cells)
    shown = [out["data"]["text/html"] for out in first if out.output_type == "display_data"]
    assert len(shown) == 1 and "<progress value='3' max='6'>" in shown[0] and "loss" in shown[0]
    (error,) = [out for out in first if out.output_type == "error"]
    assert error.ename == "Interrupted" and "stopped after step 3" in error.evalue
    assert "bl.train(..., out='r', resume=True)" in error.evalue
    shown = [out["data"]["text/html"] for out in second if out.output_type == "display_data"]
    assert len(shown) == 1 and "<progress value='6' max='6'>" in shown[0] and "done" in shown[0]
    assert not [out for out in first + second if out.output_type == "stream" and "Warning" in out.text]
