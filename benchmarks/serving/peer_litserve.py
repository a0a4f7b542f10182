"""LitServe with its own batching: `python -m benchmarks.serving.peer_litserve PORT FOLDER`.

It runs a transformers pipeline over FOLDER or, where that is `ENGINE`, the shipped bundle by the same engine as Stancewire.
"""

import sys
from dataclasses import asdict
from typing import Any

import litserve


class Api(litserve.LitAPI):  # type: ignore[misc]
    """A pipeline over the folder of the command line, in a process of LitServe's."""

    folder = ""

    def setup(self, device: str) -> None:
        """Load the model."""
        from transformers import pipeline

        self.pipe = pipeline("text-classification", self.folder, top_k=None, truncation=True)

    def decode_request(self, request: dict[str, list[str]]) -> list[str]:
        """The sentences of one request."""
        return request["sentences"]

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        """Requests stay lists of sentences."""
        return inputs

    def predict(self, x: list[list[str]]) -> list[Any]:
        """Classify the sentences of all requests of a batch."""
        answers = iter(self.pipe([sentence for sentences in x for sentence in sentences]))
        return [[next(answers) for _ in sentences] for sentences in x]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """An answer for each request."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer to one request."""
        return {"results": output}


class EngineApi(Api):
    """The shipped bundle, on all cores, in calls cut by length as Stancewire's own."""

    def setup(self, device: str) -> None:
        """Open the bundle."""
        from models.bundle import DEFAULT_BUNDLE
        from models.classifier import Classifier

        self.classifier = Classifier.open(DEFAULT_BUNDLE)
        self.classifier.warm()

    def predict(self, x: list[list[str]]) -> list[Any]:
        """Classify the sentences of all requests of a batch."""
        answers = iter(self.classifier.classify([sentence for sentences in x for sentence in sentences]))
        return [[asdict(next(answers)) for _ in sentences] for sentences in x]


if __name__ == "__main__":
    api = (EngineApi if sys.argv[2] == "ENGINE" else Api)(max_batch_size=8, batch_timeout=0.005, api_path="/v1/classify")
    api.folder = sys.argv[2]
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
