"""The teacher: all-MiniLM-L6-v2 as a bi-encoder (mean pooling, cosine), and its nearest neighbours."""

import time

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertModel

from . import settings as S, sources

VECTORS = S.CACHE / "vectors.npy"


def tokenizer():
    tok = Tokenizer.from_file(str(sources.teacher_dir() / "tokenizer.json"))
    tok.no_padding()
    tok.no_truncation()
    return tok


class Teacher:
    def __init__(self):
        self.tok = tokenizer()
        self.tok.enable_truncation(S.TEACHER_TOKENS)
        self.model = BertModel.from_pretrained(sources.teacher_dir(), add_pooling_layer=False).eval()

    @torch.inference_mode()
    def encode(self, texts, progress=False):
        """Unit vectors as float32 [n, 384]; bf16 arithmetic, batches of like length."""
        ids = [e.ids for e in self.tok.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.zeros((len(ids), self.model.config.hidden_size), np.float32)
        start, done, shown = time.time(), 0, 0.0
        at = 0
        while at < len(order):
            batch = order[at:at + max(8, 3000 // max(1, len(ids[order[at]])))]
            width = len(ids[batch[-1]])
            x = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, i in enumerate(batch):
                x[row, :len(ids[i])] = torch.tensor(ids[i])
                mask[row, :len(ids[i])] = 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                hidden = self.model(input_ids=x, attention_mask=mask).last_hidden_state
            m = mask.unsqueeze(-1).float()
            v = (hidden.float() * m).sum(1) / m.sum(1)
            out[batch] = torch.nn.functional.normalize(v, dim=-1).numpy()
            at += len(batch)
            done += int(mask.sum())
            if progress and time.time() - shown > 15:
                shown = time.time()
                print(f"teacher: {at}/{len(order)} texts, {done / (shown - start):.0f} tokens/s", flush=True)
        return out


def vectors(pool):
    """Vectors of all texts of the pool, computed once."""
    if VECTORS.exists():
        return np.load(VECTORS)
    v = Teacher().encode(pool["texts"], progress=True).astype(np.float16)
    tmp = VECTORS.with_name("vectors.tmp.npy")
    np.save(tmp, v)
    tmp.rename(VECTORS)
    return v


@torch.inference_mode()
def neighbours(queries, passages, k, chunk=512):
    """Indices of the k nearest passages of each query, best first, [n, k]."""
    p = torch.from_numpy(np.asarray(passages)).to(torch.bfloat16).T.contiguous()
    rows = []
    for at in range(0, len(queries), chunk):
        q = torch.from_numpy(np.asarray(queries[at:at + chunk])).to(torch.bfloat16)
        rows.append((q @ p).float().topk(k, dim=1).indices.to(torch.int32))
    return torch.cat(rows).numpy()
