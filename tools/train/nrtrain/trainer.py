"""The training loop: listwise and pointwise distillation, bf16 autocast, resumable checkpoints.

The learning rate rises, stays, and falls over the last DECAY_SHARE of the steps before THIRD_FROM; the
third part does so once more. A run with a time limit shortens the third part so that its fall is complete.
"""

import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from . import settings as S, student, vocab
from .lists import second_part, third_part

CHECKPOINT = S.CACHE / "checkpoint.pt"
KEPT = S.CACHE / "vocab.json"
LOG = S.CACHE / "train-log.jsonl"
DEV_LISTS = 200
DEV_TRAPS = 160


def kept_vocabulary(pool):
    if not KEPT.exists():
        KEPT.write_text(json.dumps(vocab.choose(pool)))
    return json.loads(KEPT.read_text())


def rate(step, steps):
    """The learning rate's factor at a step."""
    if step >= S.THIRD_FROM:
        part, at = steps - S.THIRD_FROM, step - S.THIRD_FROM
        return min(1.0, (at + 1) / S.THIRD_WARMUP, max(0.0, (part - at) / max(1, part * S.THIRD_DECAY_SHARE)))
    steps = min(steps, S.THIRD_FROM)
    decay = int(steps * S.DECAY_SHARE)
    return min(1.0, (step + 1) / S.WARMUP_STEPS, max(0.0, (steps - step) / decay))


class Batcher:
    """Turns rows of lists into padded chunks of pairs of like length."""

    def __init__(self, pool, lists, kept):
        self.texts, self.lists = pool["texts"], lists
        self.tok = Tokenizer.from_str(vocab.tokenizer_json(kept))
        self.tok.enable_truncation(S.MAX_TOKENS)

    def scores(self, model, rows, chunk_tokens=1800):
        """Logits [rows, list size]."""
        q, c = self.lists["query"][rows], self.lists["cands"][rows]
        pairs = [(self.texts[a], self.texts[b]) for a, row in zip(q, c) for b in row]
        enc = self.tok.encode_batch(pairs)
        order = sorted(range(len(enc)), key=lambda i: -len(enc[i].ids))
        logits, at = [], 0
        while at < len(order):
            width = len(enc[order[at]].ids)
            part = order[at:at + max(4, chunk_tokens // width)]
            at += len(part)
            x, kind, mask = (torch.zeros(len(part), width, dtype=torch.long) for _ in range(3))
            for r, i in enumerate(part):
                n = len(enc[i].ids)
                x[r, :n], kind[r, :n], mask[r, :n] = torch.tensor(enc[i].ids), torch.tensor(enc[i].type_ids), 1
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits.append(model(input_ids=x, token_type_ids=kind, attention_mask=mask).logits.float().squeeze(-1))
        flat = torch.cat(logits)
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return flat[back].view(len(rows), -1), sum(len(e.ids) for e in enc)

    def targets(self, rows):
        cos = torch.from_numpy(self.lists["cosines"][rows])
        gold = torch.from_numpy(self.lists["gold"][rows]).float().unsqueeze(1)
        first = torch.zeros_like(cos)
        first[:, 0] = 1
        listwise = F.softmax(cos / S.SOFT_TAU, dim=1)
        listwise = torch.where(gold > 0, S.GOLD_WEIGHT * first + (1 - S.GOLD_WEIGHT) * listwise, listwise)
        point = torch.sigmoid(S.POINT_SCALE * (cos - S.POINT_CENTRE))
        point = torch.where(gold * first > 0, 0.6 + 0.4 * point, point)
        return listwise, point


def loss_of(batcher, model, rows):
    logits, tokens = batcher.scores(model, rows)
    listwise, point = batcher.targets(rows)
    kl = F.kl_div(F.log_softmax(logits, dim=1), listwise, reduction="batchmean")
    bce = F.binary_cross_entropy_with_logits(logits, point)
    return kl + S.POINT_WEIGHT * bce, logits, tokens


@torch.inference_mode()
def dev_figures(batcher, model, rows):
    """Loss; MRR of the known answer; agreement with the teacher's best (lists without a known answer)."""
    losses, ranks, agree, best = [], [], [], []
    for at in range(0, len(rows), 20):
        part = rows[at:at + 20]
        loss, logits, _ = loss_of(batcher, model, part)
        losses.append(float(loss))
        best.extend((logits.argmax(1) == torch.from_numpy(batcher.lists["cosines"][part]).argmax(1)).tolist())
        for row, scores in zip(part, logits):
            if batcher.lists["gold"][row]:
                ranks.append(1 / (1 + int((scores[1:] > scores[0]).sum())))
            else:
                agree.append(int(scores.argmax()) == int(batcher.lists["cosines"][row].argmax()))
    return dict(dev_loss=round(float(np.mean(losses)), 4), dev_mrr=round(float(np.mean(ranks)), 4),
                dev_agree=round(float(np.mean(agree)), 4), dev_best=round(float(np.mean(best)), 4))


def train(pool, vectors, lists, steps=S.STEPS, checkpoint_every=200, on_export=None, end_by=None):
    """Train to `steps`, from the checkpoint if there is one; returns the model and the kept vocabulary.

    end_by (seconds since the epoch) lowers `steps` as needed for the third part to end by then.
    """
    torch.manual_seed(S.SEED)
    kept = kept_vocabulary(pool)
    model = student.build(kept)
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [dict(params=[p for p in weights if p.ndim > 1], weight_decay=0.01),
              dict(params=[p for p in weights if p.ndim == 1], weight_decay=0.0)]
    opt = torch.optim.AdamW(groups, lr=S.LEARNING_RATE, betas=(0.9, 0.98))
    step, seconds = 0, 0.0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        step, seconds = saved["step"], saved["seconds"]
        print(f"resumed at step {step}", flush=True)
    first = Batcher(pool, lists, kept)
    dev = np.arange(len(lists["query"]))[-DEV_LISTS:]
    second = Batcher(pool, second_part(pool, vectors, lists, DEV_LISTS, S.SECOND_LISTS), kept)
    mined, decide = third_part(pool, vectors, lists, DEV_LISTS, S.THIRD_LISTS, DEV_TRAPS)
    third, traps = Batcher(pool, mined, kept), Batcher(pool, decide, kept)
    started = step
    begin, mean, tokens = time.time(), [], 0
    while step < steps:
        if step >= S.THIRD_FROM:
            batcher, at, top = third, step - S.THIRD_FROM, S.THIRD_RATE
        else:
            batcher, at, top = (first, step, S.LEARNING_RATE) if step < S.SECOND_FROM else (second, step - S.SECOND_FROM, S.SECOND_RATE)
        rows = np.arange(at * S.LISTS_PER_STEP, (at + 1) * S.LISTS_PER_STEP) % (len(batcher.lists["query"]) - DEV_LISTS * (batcher is first))
        for g in opt.param_groups:
            g["lr"] = top * rate(step, steps)
        model.train()
        loss, _, n = loss_of(batcher, model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        mean.append(float(loss.detach()))
        tokens += n
        if end_by and step > S.THIRD_FROM and step - started >= 20:
            each = (time.time() - begin) / (step - started)
            steps = min(steps, max(step, step + int((end_by - time.time()) / each)))
        if step % 50 == 0 or step == steps:
            spent = time.time() - begin
            line = dict(step=step, of=steps, loss=round(float(np.mean(mean[-50:])), 4),
                        seconds=round(seconds + spent), tokens_per_s=round(tokens / spent))
            if step % checkpoint_every == 0 or step == steps:
                model.eval()
                line |= dev_figures(first, model, dev)
                if step >= S.THIRD_FROM:
                    line["traps"] = dev_figures(traps, model, np.arange(DEV_TRAPS))
                tmp = CHECKPOINT.with_suffix(".tmp")
                torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step, seconds=seconds + spent), tmp)
                tmp.rename(CHECKPOINT)
                if on_export:
                    on_export(model, kept)
            print(json.dumps(line), flush=True)
            with open(LOG, "a") as f:
                f.write(json.dumps(line) + "\n")
    return model.eval(), kept, dict(steps=step, seconds=round(seconds + time.time() - begin))
