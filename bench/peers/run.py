"""Starts one peer and lets it take orders (lines.py). Runs in the peers' Python (tools/venv).

    python run.py SYSTEM CHECKPOINT PRECISION THREADS [ONNX FILE]
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import lines


def main() -> None:
    system, folder, precision, threads = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    # Each system is imported alone: what it does not need is not in its memory.
    if system == "cross-encoder":
        from cross_encoder import CrossEncoderPeer

        peer = CrossEncoderPeer(folder, precision, threads)
    elif system in ("loop", "compiled-loop"):
        from loop import LoopPeer

        peer = LoopPeer(folder, precision, threads, system == "compiled-loop")
    elif system == "onnx":
        from onnx_runtime import OnnxPeer

        peer = OnnxPeer(folder, sys.argv[5], threads)
    elif system == "ceiling":
        from ceiling import Ceiling

        peer = Ceiling(folder, precision, threads)
    else:
        sys.exit(f"no such peer: {system}")
    lines.obey(peer, peer.about)


if __name__ == "__main__":
    main()
