"""Loading a release: manifest, bundle, ONNX session, and the watcher that follows the champion."""
