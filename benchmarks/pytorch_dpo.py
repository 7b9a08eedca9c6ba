"""A plain, well-written PyTorch DPO loop: the opponent of `experiments.bench`.

Transformers' Llama; prompt and response repeated for each side and padded to the longest of the batch; the output head
on completion positions alone, cross-entropy; AdamW; the reference evaluated in every step.

  pip install -r benchmarks/requirements-pytorch.txt
  python benchmarks/pytorch_dpo.py --vocab 32000
  python benchmarks/pytorch_dpo.py --lengths lengths.json      # [[prompt, chosen, rejected], ...] tokens of real pairs

Prints one line of JSON: the seconds of each step, useful tokens a step, and the peak of resident memory.
"""

import argparse
import copy
import json
import resource
import sys
import time

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel


class Policy(torch.nn.Module):
    """A Llama whose output head is applied where the caller asks."""

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.body = LlamaModel(
            LlamaConfig(
                vocab_size=args.vocab,
                hidden_size=args.hidden,
                num_hidden_layers=args.layers,
                num_attention_heads=args.heads,
                intermediate_size=args.intermediate,
                max_position_embeddings=4096,
                use_cache=False,
                attn_implementation=args.attention,
            )
        )
        self.head = torch.nn.Linear(args.hidden, args.vocab, bias=False)

    def logps(self, tokens: torch.Tensor, seen: torch.Tensor, completion: torch.Tensor) -> torch.Tensor:
        """Summed log-prob of each row's completion."""
        attention = None if bool(seen.all()) else seen
        states = self.body(input_ids=tokens, attention_mask=attention).last_hidden_state[:, :-1]
        scored = completion[:, 1:]
        logits = self.head(states[scored]).float()
        logps = torch.zeros(scored.shape, device=logits.device)
        logps[scored] = -functional.cross_entropy(logits, tokens[:, 1:][scored], reduction="none")
        return logps.sum(-1)


def batches(args: argparse.Namespace):
    """Endless (tokens, seen, completion, useful tokens): chosen rows first, then rejected ones, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    lengths = json.load(open(args.lengths)) if args.lengths else [[args.prompt, args.response, args.response]]
    at = 0
    while True:
        rows = [lengths[(at + i) % len(lengths)] for i in range(args.pairs)]
        at += args.pairs
        sides = [(row[0], row[side]) for side in (1, 2) for row in rows]
        width = max(sum(side) for side in sides)
        column = torch.arange(width)
        prompt = torch.tensor([side[0] for side in sides])[:, None]
        total = torch.tensor([sum(side) for side in sides])[:, None]
        tokens = torch.randint(1, args.vocab, (len(sides), width), generator=generator)
        seen = column < total
        yield tokens * seen, seen, seen & (column >= prompt), sum(sum(side) for side in sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"vocab": 8192, "hidden": 256, "layers": 4, "heads": 8, "intermediate": 1024, "pairs": 8,
                          "prompt": 64, "response": 192, "steps": 5, "warmup": 2, "threads": 2}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lengths", help="JSON file with the lengths of real pairs")
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="parameters and computation in bfloat16")
    parser.add_argument("--serve", action="store_true", help="one step for each line on standard input")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    policy = Policy(args).to(args.device, torch.bfloat16 if args.bf16 else torch.float32)
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    data = batches(args)

    def step() -> tuple[float, int]:
        tokens, seen, completion, useful = next(data)
        tokens, seen, completion = (x.to(args.device) for x in (tokens, seen, completion))
        start = time.perf_counter()
        with torch.no_grad():
            ref = reference.logps(tokens, seen, completion)
        chosen, rejected = (policy.logps(tokens, seen, completion) - ref).chunk(2)
        loss = -functional.logsigmoid(0.1 * (chosen - rejected)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - start, useful

    for _ in range(args.warmup):
        step()
    if args.serve:
        print(json.dumps({"ready": torch.__version__}), flush=True)
        for _ in sys.stdin:
            start = time.process_time()
            seconds, useful = step()
            cpu = time.process_time() - start
            print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": useful, **peak(args)}), flush=True)
        return
    done = [step() for _ in range(args.steps)]
    print(json.dumps({"seconds": [x for x, _ in done], "tokens": [x for _, x in done], **peak(args)}))


def peak(args: argparse.Namespace) -> dict[str, float]:
    """Peak memory in MB: of the process, and of the device where it has its own."""
    out = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if args.device != "cpu":
        out["device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return out


if __name__ == "__main__":
    main()
