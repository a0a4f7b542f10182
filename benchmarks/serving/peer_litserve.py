"""LitServe over a transformers pipeline, with LitServe's own batching: `python -m benchmarks.serving.peer_litserve PORT FOLDER`."""

import sys
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


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.005, api_path="/v1/classify")
    api.folder = sys.argv[2]
    litserve.LitServer(api, accelerator="cpu").run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
