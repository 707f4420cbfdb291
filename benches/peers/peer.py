"""Room: benches, peers. One loss as others compute it, in a process of its own.

`benches/compare` starts this program with a peer's name and a problem, and drives it by lines on
standard input; every answer is one line of JSON on standard output:

    (start)   {"ready": "torch 2.15.0"}, or {"missing": "why"} and the process ends
    step K    {"seconds": s, "processor": p}: K steps of loss and gradients; the time of one, and
              the processor time of all cores together
    products K  {"seconds": s}: the three matrix products of a step alone, K times; the time of one
    values P  {"loss": l}: gradients go to the files P.x and P.y as float32
    memory    {"bytes": b}: what one step holds at its peak beyond what was held before it and
              beyond the gradients that it leaves

Anchors and candidates come as raw float32 files. The diagonal is positive; where a loss has labels,
row i has the label i // 8, and the candidates are the anchors.
"""

import argparse
import contextlib
import json
import platform
import sys
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--loss", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--d", type=int, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--x", required=True)
    parser.add_argument("--y", required=True)
    # No step of this size before the first command: for its memory.
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()

    # What a peer prints must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields):
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        import torch

        import losses

        if options.device == "cuda" and not torch.cuda.is_available():
            raise ImportError("this torch finds no CUDA device")
        torch.set_num_threads(options.threads)
        problem = Problem(torch, options)
        loss, name = losses.find(options.peer, options.loss, problem)
        # A first step at a small size: libraries load what they load once.
        small = Problem(torch, options, rows=64)
        small.step(losses.find(options.peer, options.loss, small)[0])
        if not options.fresh:
            problem.step(loss)
            problem.wait()
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        answer(missing=f"{type(error).__name__}: {said[0][:200]}")
        return
    answer(ready=name, python=platform.python_version())

    for line in sys.stdin:
        command, *words = line.split()
        if command == "step":
            steps, processor = int(words[0]), time.process_time()
            seconds = problem.time(loss, steps)
            answer(seconds=seconds, processor=(time.process_time() - processor) / steps)
        elif command == "products":
            answer(seconds=problem.time_products(int(words[0])))
        elif command == "values":
            answer(loss=problem.values(loss, words[0]))
        elif command == "memory":
            answer(bytes=problem.memory(loss))
        else:
            raise SystemExit(f"unknown command: {line}")


class Problem:
    """Embeddings on a device, and what is measured of a loss over them."""

    def __init__(self, torch, options, rows=None):
        self.torch = torch
        self.n = rows or options.n
        self.d = options.d
        self.scale = options.scale
        self.device = options.device
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]

        def load(path):
            data = torch.from_file(path, shared=False, size=self.n * self.d, dtype=torch.float32)
            data = data.reshape(self.n, self.d).to(self.device, dtype, copy=True)
            return data.requires_grad_()

        self.x = load(options.x)
        self.y = load(options.y)
        self.labels = torch.arange(self.n, device=self.device) // 8
        self.diagonal = torch.arange(self.n, device=self.device)

    def step(self, loss):
        self.x.grad = self.y.grad = None
        value = loss(self.x, self.y)
        value.backward()
        return value.detach()

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def time(self, loss, steps):
        return self.clock(lambda: self.step(loss), steps)

    def time_products(self, count):
        """What no loss over the whole matrix can do without: S, and a product for each gradient."""

        def products():
            s = x @ y.T
            return s @ y, s.T @ x

        with self.torch.no_grad():
            x, y = self.x.detach(), self.y.detach()
            products()
            self.wait()
            return self.clock(products, count)

    def clock(self, work, count):
        if self.device == "cuda":
            start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(count):
                work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / count
        start = time.perf_counter()
        for _ in range(count):
            work()
        return (time.perf_counter() - start) / count

    def values(self, loss, path):
        value = self.step(loss).item()
        for name, side in (("x", self.x), ("y", self.y)):
            if side.grad is not None:
                side.grad.float().cpu().numpy().tofile(f"{path}.{name}")
        return value

    def memory(self, loss):
        self.x.grad = self.y.grad = None
        if self.device == "cuda":
            self.wait()
            self.torch.cuda.reset_peak_memory_stats()
            before = self.torch.cuda.memory_allocated()
            self.step(loss)
            self.wait()
            return self.torch.cuda.max_memory_allocated() - before - self.gradient_bytes()
        trim()
        before = resident(reset=True)
        self.step(loss)
        return max(resident(peak=True) - before - self.gradient_bytes(), 0)

    def gradient_bytes(self):
        sides = [side.grad for side in (self.x, self.y) if side.grad is not None]
        return sum(grad.numel() * grad.element_size() for grad in sides)


def trim():
    """Gives freed memory back to the system, so that a step has to ask for its own."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident(reset=False, peak=False):
    """Bytes of memory that are resident, or were at most since the last reset (Linux)."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    key = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024


if __name__ == "__main__":
    main()
