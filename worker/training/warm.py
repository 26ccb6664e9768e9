"""Imports everything that training needs, so that a forkserver can hand out processes that start in milliseconds.

Imports only: one tensor operation, tokenizer call or `torch.cuda` call in here would hang or break the children.
"""

import signal

import datasets
import evaluate
import sklearn.metrics
import sklearn.model_selection
import torch
import transformers
import transformers.models.auto.modeling_auto
import transformers.trainer

import worker.training.engines
import worker.training.run
import worker.training.tasks

# A SIGTERM to the whole process group reaches the forkserver too. Its end would kill the training processes, which are
# to save a checkpoint instead; each sets a handler of its own.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

__all__ = ["datasets", "evaluate", "sklearn", "torch", "transformers", "worker"]
