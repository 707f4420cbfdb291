"""Room: benches, peers. The losses as users of PyTorch compute them today.

`find` gives a function of anchors and candidates that returns the loss, and the name and version of
who computes it. An ImportError says why a peer is not there.
"""

import importlib.metadata
import importlib.util
import math
import pathlib

import torch
import torch.nn.functional as F


def find(peer, loss, problem):
    make = PEERS.get((peer, loss))
    if make is None:
        raise ImportError(f"{peer} has no {loss}")
    return make(problem)


def eager(loss):
    def make(problem):
        return loss(problem), f"torch {torch.__version__}"

    return make


def compiled(loss):
    def make(problem):
        function = torch.compile(loss(problem), dynamic=False)
        return function, f"torch.compile {torch.__version__}"

    return make


def cross_example(problem):
    """Every positive against the negatives of the whole batch."""
    scale, n, device = problem.scale, problem.n, problem.device
    positive = torch.eye(n, dtype=torch.bool, device=device)

    def loss(x, y):
        logits = scale * (x @ y.T)
        negatives = logits.masked_fill(positive, -math.inf)
        return F.softplus(torch.logsumexp(negatives.flatten(), 0) - logits.diagonal()).mean()

    return loss


def in_batch(problem):
    """InfoNCE."""
    scale, target = problem.scale, problem.diagonal

    def loss(x, y):
        return F.cross_entropy(scale * (x @ y.T), target)

    return loss


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def open_clip(problem):
    """ClipLoss, from its file alone: the package imports a whole model zoo."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        raise ImportError("no package open_clip")
    path = pathlib.Path(spec.origin).with_name("loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Its labels are kept from step to step, as in a training run.
    clip = module.ClipLoss(cache_labels=True)
    return lambda x, y: clip(x, y, problem.scale), version("open_clip_torch")


def nt_xent(problem):
    """Supervised NT-Xent over one set; it normalises by itself."""
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=1 / problem.scale)
    return lambda x, y: loss(x, problem.labels), version("pytorch-metric-learning")


def need_cuda(problem, package):
    if problem.device != "cuda":
        raise ImportError(f"{package} runs on CUDA only")


def inf_cl(problem):
    need_cuda(problem, "inf-cl")
    from inf_cl import cal_flash_loss

    # The scale is a tensor there.
    scale = torch.tensor(problem.scale, device=problem.device)
    return lambda x, y: cal_flash_loss(x, y, scale=scale).mean(), version("inf-cl")


def cut_cross_entropy(problem):
    need_cuda(problem, "cut-cross-entropy")
    from cut_cross_entropy import linear_cross_entropy

    return (
        lambda x, y: linear_cross_entropy(problem.scale * x, y, problem.diagonal),
        version("cut-cross-entropy"),
    )


PEERS = {
    ("eager", "cross-example"): eager(cross_example),
    ("compile", "cross-example"): compiled(cross_example),
    ("eager", "in-batch"): eager(in_batch),
    ("compile", "in-batch"): compiled(in_batch),
    ("open-clip", "clip"): open_clip,
    ("pytorch-metric-learning", "ice"): nt_xent,
    ("inf-cl", "in-batch"): inf_cl,
    ("cut-cross-entropy", "in-batch"): cut_cross_entropy,
}
