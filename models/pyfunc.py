"""A bundle as an MLflow Python function: `mlflow.pyfunc.load_model`, `spark_udf` and `mlflow models serve` run it.

MLflow runs this file when it loads the model ("models from code"): nothing is unpickled. Input is one column of texts, output a
table of `label`, `score`, `confident`, a probability `p_LABEL` a label, `truncated`, and `error` where a row cannot be classified.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas

from models.classifier import Classifier
from models.text import fault_of

_MAX_CHARACTERS = 5000  # as the service's


class StanceModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Classifies with the bundle among the model's artifacts; engine threads as STANCEWIRE_ENGINE_THREADS says, or a core each."""

    def load_context(self, context: Any) -> None:
        """Open and verify the bundle."""
        threads = int(os.environ.get("STANCEWIRE_ENGINE_THREADS", "0"))
        self.classifier = Classifier.open(Path(context.artifacts["bundle"]), workers=threads or None)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as a schema
        """One row of results for each text of the first column."""
        column = model_input.iloc[:, 0] if isinstance(model_input, pandas.DataFrame) else pandas.Series(model_input, dtype=object)
        texts: list[Any] = [text if there else None for text, there in zip(column, column.notna(), strict=True)]
        faults = [fault_of(text, _MAX_CHARACTERS) for text in texts]
        found = iter(self.classifier.classify([text for text, fault in zip(texts, faults, strict=True) if fault is None]))
        labels = self.classifier.label_set.labels
        rows = []
        for fault in faults:
            row: dict[str, Any] = dict.fromkeys(columns(labels)) | {"error": fault}
            if fault is None:
                prediction = next(found)
                row |= {name: getattr(prediction, name) for name in ("label", "score", "confident", "truncated")}
                row |= {f"p_{label}": prediction.probabilities[label] for label in labels}
            rows.append(row)
        return pandas.DataFrame(rows, columns=columns(labels), dtype=object)  # so that nothing stays None and never becomes NaN


def columns(labels: Sequence[str]) -> list[str]:
    """The columns of the output."""
    return ["label", "score", "confident", *(f"p_{label}" for label in labels), "truncated", "error"]


mlflow.models.set_model(StanceModel())
