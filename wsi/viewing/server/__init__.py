"""The local server of `gigamil view`: pages, tiles, annotations, judgements and the stores' own files over HTTP."""
