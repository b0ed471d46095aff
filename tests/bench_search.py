#!/usr/bin/env python3
"""What searches find in the same number of trials: usage: bench_search.py PROBE [SEEDS]

Functions of conformance_tpe.py, and three more below, minimised by parzen (--tpe hyperopt and --tpe joint), hyperopt
and Optuna, each with its defaults. Prints the median over SEEDS (30) of the best loss; behind each rival's, how many of
100 pairs of runs, one of parzen's joint ones and one of its, parzen's has won (50: equally good; * where a Mann-Whitney
test says at 1 % that they differ). PROBE is tests/tpe_probe.c, built."""
import math
import os
import sys
import tempfile

import numpy as np
import optuna
from scipy import stats

from conformance_tpe import EVALUATIONS, OBJECTIVES, best_losses, hyperopt_run, parzen_run

SEARCHES = ("parzen, joint", "parzen", "hyperopt", "Optuna")


def rosenbrock4(**x):
    v = [x[f"x{i}"] for i in range(4)]
    return math.log1p(sum(100 * (v[i + 1] - v[i] ** 2) ** 2 + (1 - v[i]) ** 2 for i in range(3)))


def ackley10(**x):
    v = np.array([x[f"x{i}"] for i in range(10)]) - 1.7
    return 20 + math.e - 20 * math.exp(-0.2 * math.sqrt((v * v).mean())) - math.exp(np.cos(2 * math.pi * v).mean())


# Labels of the original's space, those that are nested with their options' values.
NETWORK = """{
    'lr': hp.loguniform('lr', -0.5, 0.5), 'l2': hp.loguniform('l2', -1.3, 1.3),
    'batch': hp.quniform('batch', 100, 450, 5), 'optimizer': hp.choice('optimizer', [0, 1, 2]),
    'coarse': hp.uniform('coarse', 0.1, 0.7), 'conv_drop': hp.uniform('conv_drop', 0.0, 0.35),
    'fc_drop': hp.uniform('fc_drop', 0.0, 0.6), 'bn': hp.choice('bn', [0, 1]),
    'first': hp.choice('first', [None, hp.choice('first_size', [3, 4])]),
    'residual': hp.choice('residual', [None, hp.quniform('units', 1 - 0.499, 4 + 0.499, 1)]),
    'width': hp.loguniform('width', -0.6, 0.6), 'layers': hp.choice('layers', [2, 3]),
    'pool': hp.choice('pool', [0, 1, 2, 3]), 'kernel': hp.quniform('kernel', 2, 4, 1),
    'residual_kernel': hp.quniform('residual_kernel', 2, 4, 1), 'start': hp.quniform('start', 0, 2, 1),
    'fc': hp.loguniform('fc', -0.6, 0.6), 'one_more': hp.choice('one_more', [None, hp.loguniform('fc2', -0.6, 0.6)]),
    'activation': hp.choice('activation', [0, 1])}"""


def network(lr, l2, batch, optimizer, coarse, conv_drop, fc_drop, bn, first, residual, width, layers, pool, kernel,
            residual_kernel, start, fc, one_more, activation, first_size=None, units=None, fc2=None):
    """A made-up error over the original's space: each choice has its price, and learning rate, width, dropout and
    regularisation depend on one another. hyperopt gives nested values in their parents' place, a point gives labels."""
    first = 0 if not first else int(first) if first_size is None else 3 + int(first_size)
    residual = residual and (residual if units is None else units)
    one_more = one_more and (one_more if fc2 is None else fc2)
    optimizer, pool = int(optimizer), int(pool)
    lr, l2, width, fc = (math.log(v) for v in (lr, l2, width, fc))
    depth = residual * max(1, 3 - start) if residual else 0
    error = 0.324 + 0.25 * (lr - 0.15 * (optimizer - 1) - 0.25 * (batch - 250) / 200 + (0 if bn else 0.35)) ** 2
    error += (0, 0.005, 0.02)[optimizer] + (0 if bn else 0.08) + {0: 0.01, 3: 0, 4: 0.004}[first]
    error += 0.03 * (l2 + 0.4 * width - 0.3 * math.log(0.2 + conv_drop + 0.5 * fc_drop) - 0.4) ** 2
    error += 0.8 * (conv_drop - 0.15 - 0.1 * width) ** 2 + 0.25 * (fc_drop - 0.35) ** 2 + 0.05 * (coarse - 0.3) ** 2
    error += 0.06 * (1 - depth / 9) ** 2 + (0.01 * (residual_kernel - 3) ** 2 if depth else 0)
    error += 0.06 * (width - 0.25) ** 2 + 0.02 * (fc - 0.1) ** 2 + (0.02 if layers in (0, 2) else 0)
    error += (0.03, 0.05, 0.01, 0)[pool] + 0.012 * (kernel - 3) ** 2 + (0 if activation else 0.02)
    return error + (0.01 + 0.02 * (math.log(one_more) - 0.2) ** 2 if one_more else 0)


def box(n, low, high):
    return "{%s}" % ", ".join(f"'x{i}': hp.uniform('x{i}', {low}, {high})" for i in range(n))


FUNCTIONS = {**OBJECTIVES, "rosenbrock4": (rosenbrock4, box(4, -2, 2)), "ackley10": (ackley10, box(10, -5, 10)),
             "network": (network, NETWORK)}


def suggest(name, trial):
    """The point of an Optuna trial in the space of a function. It has no normal distribution: hp.normal('v', 0, 2) is
    its middle three standard deviations either way."""
    def real(label, low, high):
        return trial.suggest_float(label, low, high)

    def log(label, low, high):
        return trial.suggest_float(label, math.exp(low), math.exp(high), log=True)

    def choice(label, n):
        return trial.suggest_categorical(label, list(range(n)))

    if name == "branin":
        return {"x": real("x", -5, 10), "y": real("y", 0, 15)}
    if name == "sphere5_log":
        return {f"x{i}": log(f"x{i}", -3, 3) for i in range(5)}
    if name in ("hartmann6", "rosenbrock4", "ackley10"):
        n, low, high = {"hartmann6": (6, 0, 1), "rosenbrock4": (4, -2, 2), "ackley10": (10, -5, 10)}[name]
        return {f"x{i}": real(f"x{i}", low, high) for i in range(n)}
    if name == "mixed":
        point = {"k": trial.suggest_int("k", 1, 20)}
        if choice("branch", 2) == 0:
            return {**point, "x": real("x", -5, 5), "y": log("y", -3, 3)}
        return {**point, "u": real("u", 0, 1), "v": real("v", -6, 6)}
    point = {"lr": log("lr", -0.5, 0.5), "l2": log("l2", -1.3, 1.3), "width": log("width", -0.6, 0.6),
             "fc": log("fc", -0.6, 0.6), "batch": trial.suggest_int("batch", 100, 450, step=5),
             "coarse": real("coarse", 0.1, 0.7), "conv_drop": real("conv_drop", 0, 0.35),
             "fc_drop": real("fc_drop", 0, 0.6), "start": trial.suggest_int("start", 0, 2),
             **{label: choice(label, n) for label, n in (("optimizer", 3), ("bn", 2), ("layers", 2), ("pool", 4),
                                                         ("activation", 2))},
             **{label: trial.suggest_int(label, 2, 4) for label in ("kernel", "residual_kernel")}}
    point["first"] = 3 + choice("first_size", 2) if choice("first", 2) else None
    point["residual"] = trial.suggest_int("units", 1, 4) if choice("residual", 2) else None
    point["one_more"] = log("fc2", -0.6, 0.6) if choice("one_more", 2) else None
    return point


def optuna_run(name, seed):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(lambda trial: FUNCTIONS[name][0](**suggest(name, trial)), n_trials=EVALUATIONS[-1])
    return [trial.value for trial in study.trials]


def run(job):
    name, seed, probe, path = job
    OBJECTIVES.update(FUNCTIONS)
    return [[min(losses[:k]) for k in EVALUATIONS]
            for losses in (parzen_run(name, seed, probe, path, "joint"), parzen_run(name, seed, probe, path),
                           hyperopt_run(name, seed), optuna_run(name, seed))]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    probe, seeds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 30
    with tempfile.TemporaryDirectory() as folder:
        best = best_losses(FUNCTIONS, seeds, run, probe, folder)
    print("| function | trials | " + " | ".join(SEARCHES) + " |\n|---|---:|" + "---:|" * len(SEARCHES))
    for i, name in enumerate(FUNCTIONS):
        for k, evaluations in enumerate(EVALUATIONS):
            ours = best[i, :, 0, k]
            cells = [f"{np.median(ours):.4g}"]
            for rival in range(1, len(SEARCHES)):
                theirs = best[i, :, rival, k]
                test = stats.mannwhitneyu(theirs, ours)  # U / n^2: the share of pairs in which ours is the lower
                cells.append(f"{np.median(theirs):.4g} ({100 * test.statistic / seeds ** 2:.0f}"
                             f"{'*' if test.pvalue < 0.01 else ''})")
            print(f"| {name if k == 0 else ''} | {evaluations} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
