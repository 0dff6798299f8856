"""The layers, one file per family; all are exported by `minigan.nn`."""
