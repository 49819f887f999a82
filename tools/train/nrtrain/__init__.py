"""Training of nats-rerank's built-in cross-encoder (see ../run.py)."""
