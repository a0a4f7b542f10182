"""The vocabulary both sides share: label sets, predictions, bundles, engines and the registry."""
