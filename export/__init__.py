"""Deploying a trained generator; installed as `minigan.export`.

- `exporter`: a Module as an ONNX file (`trace`, `emit` and `forms` write the graph, `fold` and `variants` change it)
- `verify`: the file against the engine; `importer`: the file as a Module again
- `runner`: the file in ONNX Runtime; `shards`: many samples on disk; `web`: a page that runs it; `triton`: a server
- `runs`: export and verify from the folder of a run
"""

from minigan.export.exporter import export_onnx
from minigan.export.graph import OnnxError
from minigan.export.importer import load_onnx
from minigan.export.runner import Generator
from minigan.export.trace import ExportError
from minigan.export.verify import verify
