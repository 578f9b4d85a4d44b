"""Memory stays under the budget whatever the vocabulary and the lengths: a real process, its resident memory at the peak."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from uae.teacher.prompts import Template
from uae.teacher.protocol import Pair
from uae.teacher.engines.local import CausalTeacher

folder, budget, trees = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "trees"
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(folder)
config = LlamaConfig(vocab_size=262_144, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
teacher = CausalTeacher(LlamaForCausalLM(config).eval(), tokenizer, "f" * 64, 100_000, budget, compile=False, trees=trees)
template = Template("Passage: {passage}\\n", "Question: {question}\\nAnswer:", " {answer}")
answer = "the seal of the door " * 12
work = [Pair((str(n), "p", "", "", ""), f"Where is number {n}?", f"{answer} {n}", "A passage.") for n in range(10)]
def peak():  # MB. Linux's ru_maxrss starts with what pytest had when it forked this process; VmHWM is of this program alone
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024

before = peak()
batches = teacher.plan(template, work)
tokens = sum(r.n_tokens for b in batches for r in teacher.read(b))
print(json.dumps({"grown": peak() - before, "batches": len(batches), "logits": tokens * 262_144 * 4 / 2**20}))
"""


@pytest.mark.parametrize("layout", ["trees", "whole"])
def test_the_budget_is_kept(tiny_lm, layout):
    budget = 300
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_lm), str(budget), layout], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["logits"] > 700  # the logits alone would be many times the budget
    assert result["batches"] >= 3
    assert result["grown"] < budget + 40  # what the allocator holds beyond the tensors


def test_one_answer_larger_than_the_budget_is_read_in_parts(tiny_lm):
    """64 MB hold the logits of 15 positions; each answer has some 70."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_lm), "64", "trees"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["batches"] == 10
    assert result["grown"] < 64 + 40
