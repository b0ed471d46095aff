#!/usr/bin/env python3
"""parzen's TPE held against hyperopt's own: usage: conformance_tpe.py PROBE [PARZEN]

Four parts, all with fixed seeds:
 1. random spaces and histories, given to both: the split, the posteriors, log l, log g and log l - log g of candidates.
    hyperopt's side is read out of the graph that its own `tpe.suggest` builds;
 2. the seed's space in its two versions, and one of all twelve distributions: 10,000 prior draws of each label;
 3. the best loss after 25, 50, 100 and 200 evaluations of four functions, 30 seeds each.

hyperopt sorts with numpy's unstable argsort; in part 1 it is made to sort stably, as parzen does. Part 3 runs hyperopt
as it is. Statistical comparisons are two-sided and fail at p < 0.01 / (how many there are in that part).
PROBE is tests/tpe_probe.c, built; PARZEN the program, whose `space` is the later version of the seed's space."""
import json
import logging
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
from hyperopt import Trials, fmin, hp, pyll, tpe
from hyperopt.base import Domain
from scipy import stats

N_CASES = 80
N_DRAWS = 10000
N_SEEDS = 30
EVALUATIONS = (25, 50, 100, 200)
LEVEL = 0.01

passed = failed = 0


def check(good, message):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("failed:", message)


# ---- 1. the same history for both ----

DISTRIBUTIONS = ("uniform quniform loguniform qloguniform normal qnormal lognormal qlognormal uniformint randint "
                 "choice pchoice").split()


class SpaceWriter:
    """Writes a random space as text. Goes round the twelve distributions, so that each comes often."""

    def __init__(self, rng, first):
        self.rng, self.n_labels, self.next = rng, 0, first

    def number(self, low, high):
        return round(self.rng.uniform(low, high), self.rng.choice([0, 1, 4]))

    def bounds(self, low, high):
        a, b = self.number(low, high), self.number(low, high)
        while abs(a - b) < 0.05 * (high - low):
            b = self.number(low, high)
        return min(a, b), max(a, b)

    def param(self, level):
        name = DISTRIBUTIONS[self.next % len(DISTRIBUTIONS)]
        self.next += 1
        if level == 3 and name in ("choice", "pchoice"):
            name = "randint"
        label = f"x{self.n_labels}"
        self.n_labels += 1
        rng = self.rng
        if name == "choice":
            arguments = "[%s]" % ", ".join(self.options(level))
        elif name == "pchoice":
            options = self.options(level)
            weights = [rng.randint(1, 8) for _ in options]
            arguments = "[%s]" % ", ".join(f"({w / sum(weights)!r}, {o})" for w, o in zip(weights, options))
        elif name == "randint":
            low = rng.randint(-20, 20)
            high = low + rng.randint(2, 30)
            arguments = f"{low}, {high}" if rng.random() < 0.6 else str(high - low)
        elif name == "uniformint":
            low = rng.randint(-20, 20)
            arguments = f"{low}, {low + rng.randint(2, 30)}"
        else:
            if name.endswith("uniform"):
                a, b = self.bounds(-4, 4) if "log" in name else self.bounds(-100, 100)
            else:
                a, b = (self.number(-2, 3), rng.choice([0.3, 0.7, 1.5])) if "log" in name else \
                    (self.number(-50, 50), rng.choice([0.1, 2.0, 30.0]))
            arguments = f"{a!r}, {b!r}"
            if name[0] == "q":
                width = {"quniform": b - a, "qnormal": b, "qloguniform": math.exp(min(b, 2)),
                         "qlognormal": math.exp(min(a, 2))}[name]
                arguments += ", %r" % float("%.2g" % (width * rng.choice([0.02, 0.1, 0.4])))
        return f"hp.{name}('{label}', {arguments})"

    def options(self, level):
        return [self.option(level) for _ in range(self.rng.randint(2, 4))]

    def option(self, level):
        kind = self.rng.random()
        if kind < 0.25:
            return self.rng.choice(["None", "True", "'relu'", "3", "0.5"])
        if kind < 0.6:
            return self.param(level + 1)
        inner = [self.param(level + 1) for _ in range(self.rng.randint(1, 3))]
        if kind < 0.8:
            return "{%s}" % ", ".join(f"'k{i}': {v}" for i, v in enumerate(inner))
        return "[%s]" % ", ".join(inner)

    def space(self):
        return "{%s}" % ", ".join(f"'key{i}': {self.param(0)}" for i in range(self.rng.randint(4, 9)))


def objects_of(text):
    """The same text as hyperopt's objects: it is Python."""
    return eval(text, {"hp": hp, "dict": dict})


def domain_of(text):
    return Domain(lambda config: 0.0, objects_of(text))


def prior_draws(domain, n, seed):
    """n draws of hyperopt's prior: {label: ([trial], [value])}."""
    idxs, vals = pyll.rec_eval(domain.s_idxs_vals, memo={domain.s_new_ids: list(range(n)),
                                                         domain.s_rng: np.random.default_rng(seed)})
    return {label: (list(idxs[label]), [float(v) for v in vals[label]]) for label in domain.params}


def history_of(domain, rng):
    n = rng.randint(21, 300)
    points = [{} for _ in range(n)]
    for label, (trials, values) in prior_draws(domain, n, rng.randrange(2 ** 31)).items():
        for trial, value in zip(trials, values):
            points[trial][label] = value
    for i in range(1, n):
        if rng.random() < 0.05:
            points[i] = dict(points[rng.randrange(i)])
    ties, lost = rng.choice([0, 0.2, 0.9]), rng.choice([0, 0.05, 0.4])
    losses = []
    for i in range(n):
        kind = rng.random()
        if kind < lost:
            # at least 20 must stay, or both would draw from the prior
            losses.append(rng.choice([None, None, math.inf] + [math.nan] * (i >= 20)))
        else:
            losses.append(float(rng.randint(0, 5)) if rng.random() < ties else rng.gauss(0, 1))
    return [[loss, point] for loss, point in zip(losses, points)]


class StableNumpy:
    """numpy for hyperopt.tpe, but for argsort, which is made stable."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def argsort(a):
        return np.argsort(a, kind="stable")


class Captured(Exception):
    pass


class CapturingPyll:
    """pyll for hyperopt.tpe.suggest: stops it where the graph is made and its inputs are known."""

    def __getattr__(self, name):
        return getattr(pyll, name)

    def rec_eval(self, graph, memo, **_):
        raise Captured(graph, memo)


class Docs(list):
    """As much of hyperopt's Trials as tpe.suggest reads."""

    @property
    def trials(self):
        return self


def docs_of(domain, history):
    return Docs({"tid": tid, "result": {"status": "fail"} if loss is None else {"status": "ok", "loss": loss},
                 "misc": {"tid": tid, "idxs": {label: [tid] * (label in point) for label in domain.params},
                          "vals": {label: [point[label]] if label in point else [] for label in domain.params}}}
                for tid, (loss, point) in enumerate(history))


def hyperopt_side(domain, history, seed):
    """{label: {...}} of what one step of tpe.suggest computes, and how to score other candidates."""
    for label, param in domain.params.items():  # a choice's and a randint's observations are integers
        if param.name in ("randint", "categorical"):
            for _, point in history:
                if label in point:
                    point[label] = int(point[label])
    tpe.pyll = CapturingPyll()
    try:
        tpe.suggest([len(history)], domain, docs_of(domain, history), seed, verbose=False)
        raise AssertionError("hyperopt drew from the prior")
    except Captured as captured:
        graph, memo = captured.args
    finally:
        tpe.pyll = pyll
    wanted = {}
    for node in pyll.dfs(pyll.as_apply(list(graph))):
        if node.name != "broadcast_best":
            continue
        candidates, log_l, log_g = node.pos_args
        splits = [n for n in pyll.dfs(log_g) if n.name == "ap_split_trials"]
        labels = {n.pos_args[0].pos_args[1].obj for n in splits}
        # a label's graph holds its ancestors' too: its own split is the one its posterior is made of
        own = [n for n in splits if n in direct_inputs(log_g)]
        assert len(own) == 1, labels
        label = own[0].pos_args[0].pos_args[1].obj
        assert label not in wanted
        keep = [(k, v) for k, v in candidates.named_args if k not in ("rng", "size")]
        wanted[label] = {
            "function": candidates.name, "split": own[0], "candidates": candidates,
            "below": list(candidates.pos_args), "above": list(log_g.pos_args[1:]), "named": dict(keep),
            "log_l": log_l, "log_g": log_g}
    labels = sorted(wanted)
    assert set(labels) == set(domain.params)
    parts = ["split", "candidates", "log_l", "log_g", "below", "above", "named"]
    values = pyll.rec_eval(pyll.as_apply([[wanted[l][p] for p in parts] for l in labels]), memo=memo)
    out = {}
    for label, row in zip(labels, values):
        out[label] = dict(zip(parts, row), function=wanted[label]["function"])
    return out


def direct_inputs(log_g):
    """The nodes a posterior is made of, down to its split and not through its candidates (the first argument)."""
    seen, todo = set(), list(log_g.pos_args[1:])
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            if node.name != "ap_split_trials":
                todo += [n for n in node.inputs() if n.name != "broadcast_best"]
    return seen


def largest(a, b):
    """The largest |a - b| / max(1, |b|); inf where the shapes differ."""
    a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
    if a.shape != b.shape:
        return math.inf
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0))


def tolerance(log_mass, quantised):
    """A quantised log mass L cannot be known better than some 1e-16 / exp(L): it is a difference of CDFs."""
    return 1e-9 + (1e-15 * math.exp(-log_mass) if quantised else 0) if math.isfinite(log_mass) else 0


def worst_score(ours_l, ours_g, theirs_l, theirs_g, quantised):
    """How far the scores are apart, in tolerances, and in nats where no digits are cancelled (log masses > -10)."""
    worst = nats = 0.0
    for a, b, c, d in zip(ours_l, ours_g, theirs_l, theirs_g):
        if quantised and not (c > -34 and d > -34):
            # less than a rounding error of mass: nothing but its smallness can be compared
            small = all(t > -34 or not o > -32 for o, t in ((a, c), (b, d)))
            worst = max(worst, 0 if small else math.inf)
            continue
        pairs = [(a, c, tolerance(c, quantised)), (b, d, tolerance(d, quantised))]
        pairs.append((a - b, c - d, pairs[0][2] + pairs[1][2]))
        for ours, theirs, allowed in pairs:
            if ours == theirs:
                continue
            apart = abs(ours - theirs)
            worst = max(worst, apart / (allowed * max(1, abs(theirs))) if apart == apart and allowed else math.inf)
        if c > -10 and d > -10:
            nats = max(nats, abs((a - b) - (c - d)))
    return worst, nats


def same_histories(probe):
    rng = random.Random(3)
    tpe.np = StableNumpy()
    cases, references, seen = [], [], {}
    for number in range(N_CASES):
        text = SpaceWriter(rng, number).space()
        domain = domain_of(text)
        history = history_of(domain, rng)
        reference = hyperopt_side(domain, history, rng.randrange(2 ** 31))
        draws = prior_draws(domain, 100, rng.randrange(2 ** 31))
        candidates = {}
        for label, mine in reference.items():
            param = domain.params[label]
            extra = np.asarray(draws[label][1][:12])
            if param.name in ("randint", "categorical"):
                low = param.pos_args[0].obj if param.name == "randint" and len(param.pos_args) == 2 else 0
                extra = extra.astype(int) - low
            if param.name == "categorical" and not len(mine["below"][0]):
                # inactive in this step, for which hyperopt computes no p: with the same functions, from the split
                p = np.asarray(pyll.rec_eval(param.pos_args[0]))
                for group, obs in zip(("below", "above"), mine["split"]):
                    weights = tpe.linear_forgetting_weights(len(obs), tpe.DEFAULT_LF)
                    counts = np.bincount(np.asarray(obs, int), weights, len(p))
                    mine[group] = [tpe.tpe_cat_pseudocounts(counts, 1.0, p, 1)]
            lpdf = getattr(tpe, mine["function"] + "_lpdf")
            logs = [lpdf(extra, *mine[group], **mine["named"]) for group in ("below", "above")]
            candidates[label] = [float(x) for x in list(mine["candidates"]) + list(extra)]
            mine["log_l"] = list(mine["log_l"]) + list(logs[0])
            mine["log_g"] = list(mine["log_g"]) + list(logs[1])
        cases.append({"space": text, "history": history, "candidates": candidates})
        references.append(reference)
    tpe.np = np
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"cases": cases}, file)
        file.flush()
        lines = subprocess.run([probe, "score", file.name], check=True, capture_output=True, text=True).stdout
    answers = [json.loads(line) for line in lines.splitlines()]
    check(len(answers) == len(cases), f"{len(answers)} answers to {len(cases)} cases")

    posterior = nats = 0.0
    for number, (case, answer, reference) in enumerate(zip(cases, answers, references)):
        check(set(answer["labels"]) == set(reference), f"case {number}: the labels of {case['space']}")
        for label, theirs in reference.items():
            ours = answer["labels"][label]
            where = f"case {number}: {label} ({ours['distribution']})"
            seen[ours["distribution"]] = seen.get(ours["distribution"], 0) + 1
            for i, group in enumerate(("below", "above")):
                check(ours[group]["observations"] == [float(x) for x in theirs["split"][i]], f"{where}: split, {group}")
                names = ["p"] if "p" in ours[group] else ["weights", "mus", "sigmas"]
                apart = max(largest(ours[group][name], value) for name, value in zip(names, theirs[group]))
                posterior = max(posterior, apart)
                check(apart <= 1e-9, f"{where}: posterior, {group}: {apart:g} apart")
            quantised = theirs["named"].get("q") is not None
            worst, apart = worst_score(ours["log_l"], ours["log_g"], theirs["log_l"], theirs["log_g"], quantised)
            nats = max(nats, apart)
            check(len(ours["log_l"]) == len(theirs["log_l"]) and worst <= 1, f"{where}: scores: {worst:g} tolerances")
    for name in DISTRIBUTIONS:
        check(seen.get(name, 0) >= 10, f"only {seen.get(name, 0)} labels of {name}")
    print(f"same history: {len(cases)} spaces, {sum(seen.values())} labels, "
          f"{sum(len(c['history']) for c in cases)} trials; largest deviation: posteriors {posterior:.1e}, "
          f"log l - log g {nats:.1e} nats")


# ---- 2. prior draws ----

# The first version of the original's space, as it stands there; the later one is `parzen space`.
SEED_FIRST = """space = {
    'lr_rate_mult': hp.loguniform('lr_rate_mult', -0.5, 0.5),
    'l2_weight_reg_mult': hp.loguniform('l2_weight_reg_mult', -1.3, 1.3),
    'batch_size': hp.quniform('batch_size', 100, 700, 5),
    'optimizer': hp.choice('optimizer', ['Adam', 'Nadam', 'RMSprop']),
    'coarse_labels_weight': hp.uniform('coarse_labels_weight', 0.01, 0.8),
    'conv_dropout_drop_proba': hp.uniform('conv_dropout_proba', 0.0, 0.35),
    'fc_dropout_drop_proba': hp.uniform('fc_dropout_proba', 0.0, 0.6),
    'use_BN': hp.choice('use_BN', [False, True]),
    'first_conv': hp.choice('first_conv', [None, hp.choice('first_conv_size', [3, 4])]),
    'residual': hp.choice('residual', [None, hp.quniform('residual_units', 1 - 0.499, 4 + 0.499, 1)]),
    'conv_hiddn_units_mult': hp.loguniform('conv_hiddn_units_mult', -0.6, 0.6),
    'nb_conv_pool_layers': hp.choice('nb_conv_pool_layers', [2, 3]),
    'pooling_type': hp.choice('pooling_type', ['max', 'avg', 'all_conv', 'inception']),
    'conv_kernel_size': hp.choice('conv_kernel_size', [2, 3]),
    'fc_units_1_mult': hp.loguniform('fc_units_1_mult', -0.6, 0.6),
    'one_more_fc': hp.choice('one_more_fc', [None, hp.loguniform('fc_units_2_mult', -0.6, 0.6)]),
    'activation': hp.choice('activation', ['relu', 'elu'])
}
"""

ALL_TWELVE = """{
    'uniform': hp.uniform('uniform', -3, 8), 'quniform': hp.quniform('quniform', 0, 10, 1.5),
    'loguniform': hp.loguniform('loguniform', -7, 2), 'qloguniform': hp.qloguniform('qloguniform', 0, 4, 3),
    'normal': hp.normal('normal', 2, 5), 'qnormal': hp.qnormal('qnormal', 1, 4, 2),
    'lognormal': hp.lognormal('lognormal', -1, 1.5), 'qlognormal': hp.qlognormal('qlognormal', 1, 1, 0.5),
    'uniformint': hp.uniformint('uniformint', -2, 6), 'randint': hp.randint('randint', 3, 11),
    'choice': hp.choice('choice', [1, {'a': hp.randint('below', 5), 'b': hp.normal('normal_below', 0, 1)},
        hp.choice('choice_below', [hp.qnormal('deepest', 0, 2, 1), 'x'])]),
    'pchoice': hp.pchoice('pchoice', [(0.1, 1), (0.65, hp.uniform('uniform_below', 0, 1)), (0.25, None)])
}
"""


def chi_square_p(ours, theirs):
    """The p of one law for both, over the values they take; the rare ones as one."""
    values = sorted(set(ours) | set(theirs))
    table = np.array([[draws.count(v) for v in values] for draws in (ours, theirs)], float)
    rare = table.sum(axis=0) < 20
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)] if rare.any() else [table])
    table = table[:, table.sum(axis=0) > 0]
    return stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0


def same_draws(probe, parzen, folder):
    later = subprocess.run([parzen, "space"], check=True, capture_output=True, text=True).stdout
    results = []
    for name, text in (("seed, first", SEED_FIRST), ("seed, later", later), ("all twelve", ALL_TWELVE)):
        path = os.path.join(folder, "space.py")
        with open(path, "w") as file:
            file.write(text)
        lines = subprocess.run([probe, "draw", path, str(N_DRAWS), "5"], check=True, capture_output=True, text=True)
        points = [json.loads(line) for line in lines.stdout.splitlines()]
        domain = domain_of(text.split("=", 1)[1] if text.startswith("space") else text)
        theirs = prior_draws(domain, N_DRAWS, 7)
        check({l for p in points for l in p} == set(theirs) and len(points) == N_DRAWS, f"{name}: the labels")
        for label, (_, values) in theirs.items():
            ours = [p[label] for p in points if label in p]
            distribution = domain.params[label].name
            if distribution[0] == "q" or distribution in ("randint", "categorical"):  # the inactive are a value too
                ours, values = ([*x, *[math.inf] * (N_DRAWS - len(x))] for x in (ours, values))
                p = chi_square_p(ours, values)
            else:
                p = stats.ks_2samp(ours, values).pvalue
            results.append((p, f"{name}: {label}"))
    for p, where in results:
        check(p >= LEVEL / len(results), f"{where}: p {p:.2g}")
    print(f"prior draws: {len(results)} labels, {N_DRAWS} draws each; smallest p {min(results)[0]:.2g} "
          f"({min(results)[1]}); {LEVEL / len(results):.1g} would fail")


# ---- 3. regret ----

def branin(x, y):
    b, c, t = 5.1 / (4 * math.pi ** 2), 5 / math.pi, 1 / (8 * math.pi)
    return (y - b * x * x + c * x - 6) ** 2 + 10 * (1 - t) * math.cos(x) + 10


ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14],
              [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
P = 1e-4 * np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                     [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]])


def hartmann6(**x):
    point = np.array([x[f"x{i}"] for i in range(6)])
    return -float(ALPHA @ np.exp(-(A * (point - P) ** 2).sum(axis=1)))


def sphere5_log(**x):
    return sum((math.log(v) - 0.3) ** 2 for v in x.values())


def mixed(k, branch=None, x=None, y=None, u=None, v=None):
    if isinstance(branch, dict):  # hyperopt's configuration; a point has all at one level
        return mixed(k, **branch)
    if x is not None:
        return 0.3 + 0.125 * (x - 1.5) ** 2 + 0.25 * (math.log(y) + 1) ** 2 + 0.02 * (k - 12) ** 2
    return 4 * (u - 0.7) ** 2 + 0.2 * (v - 1) ** 2 + 0.02 * (k - 5) ** 2


OBJECTIVES = {
    "branin": (branin, "{'x': hp.uniform('x', -5, 10), 'y': hp.uniform('y', 0, 15)}"),
    "hartmann6": (hartmann6, "{%s}" % ", ".join(f"'x{i}': hp.uniform('x{i}', 0, 1)" for i in range(6))),
    "sphere5_log": (sphere5_log, "{%s}" % ", ".join(f"'x{i}': hp.loguniform('x{i}', -3, 3)" for i in range(5))),
    "mixed": (mixed, "{'k': hp.quniform('k', 1, 20, 1), 'branch': hp.choice('branch', ["
                     "{'x': hp.uniform('x', -5, 5), 'y': hp.loguniform('y', -3, 3)}, "
                     "{'u': hp.uniform('u', 0, 1), 'v': hp.normal('v', 0, 2)}])}"),
}


def hyperopt_run(name, seed):
    function, text = OBJECTIVES[name]
    trials = Trials()
    fmin(lambda config: function(**config), objects_of(text), tpe.suggest, EVALUATIONS[-1], trials=trials,
         rstate=np.random.default_rng(seed), show_progressbar=False, verbose=False)
    return trials.losses()


def parzen_run(name, seed, probe, path, *options):
    losses = []
    with subprocess.Popen([probe, "minimise", path, str(seed), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        for _ in range(EVALUATIONS[-1]):
            losses.append(OBJECTIVES[name][0](**json.loads(process.stdout.readline())))
            process.stdin.write(f"{losses[-1]!r}\n")
            process.stdin.flush()
        process.stdin.close()
        process.stdout.read()
    return losses


def run(job):
    name, seed, probe, path = job
    return [[min(losses[:k]) for k in EVALUATIONS]
            for losses in (parzen_run(name, seed, probe, path), hyperopt_run(name, seed))]


def quiet():
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def best_losses(objectives, seeds, run, probe, folder):
    """[objective][seed][search][EVALUATIONS]: what run((name, seed, probe, the space's file)) gives, on all cores."""
    jobs = []
    for name, (_, text) in objectives.items():
        path = os.path.join(folder, name + ".py")
        with open(path, "w") as file:
            file.write(text)
        jobs += [(name, seed, probe, path) for seed in range(seeds)]
    with multiprocessing.Pool(initializer=quiet) as pool:
        best = np.array(pool.map(run, jobs, chunksize=1))
    return best.reshape(len(objectives), seeds, -1, len(EVALUATIONS))


def same_regret(probe, folder):
    best = best_losses(OBJECTIVES, N_SEEDS, run, probe, folder)
    print(f"best loss, median of {N_SEEDS} seeds    evaluations    parzen  hyperopt        p")
    for i, name in enumerate(OBJECTIVES):
        for k, evaluations in enumerate(EVALUATIONS):
            ours, theirs = best[i, :, 0, k], best[i, :, 1, k]
            p = stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue
            print(f"{name:35s} {evaluations:11d} {np.median(ours):9.4f} {np.median(theirs):9.4f} {p:8.2g}")
            check(p >= LEVEL / (len(OBJECTIVES) * len(EVALUATIONS)), f"{name} after {evaluations}: p {p:.2g}")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    quiet()
    probe = os.path.abspath(sys.argv[1])
    parzen = os.path.abspath(sys.argv[2] if len(sys.argv) == 3 else "parzen")
    with tempfile.TemporaryDirectory() as folder:
        for part, arguments in ((same_histories, (probe,)), (same_draws, (probe, parzen, folder)),
                                (same_regret, (probe, folder))):
            start = time.monotonic()
            part(*arguments)
            print(f"  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
