#!/usr/bin/env python3
"""The time of one TPE suggestion: usage: bench_tpe.py PROBE

Prints a table of ms per suggestion over the seed's space with 50, 200, 1,000 and 10,000 trials known: parzen (each
label by itself, and whole points), hyperopt's tpe.suggest and Optuna's TPESampler (multivariate and constant_liar off),
one after the other on the same machine. Each number is a median; parzen's includes taking in the trial before, the
others' do not. PROBE is tests/tpe_probe.c, built."""
import json
import logging
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import optuna
from hyperopt import Trials, hp, pyll, tpe
from hyperopt.base import JOB_STATE_DONE, Domain
from optuna.distributions import CategoricalDistribution, FloatDistribution

TRIALS = (50, 200, 1000, 10000)
REPEATS = 21
MOST_SECONDS = 40  # of repeats, for one number

# The later version of the seed's space, for hyperopt and Optuna; its three conditional parameters are added below.
CHOICES = {"optimizer": 3, "use_BN": 2, "first_conv": 2, "residual": 2, "nb_conv_pool_layers": 2, "pooling_type": 4,
           "one_more_fc": 2, "activation": 2}
LOG = {"lr_rate_mult": (-0.5, 0.5), "l2_weight_reg_mult": (-1.3, 1.3), "conv_hiddn_units_mult": (-0.6, 0.6),
       "fc_units_1_mult": (-0.6, 0.6)}
UNIFORM = {"coarse_labels_weight": (0.1, 0.7), "conv_dropout_proba": (0.0, 0.35), "fc_dropout_proba": (0.0, 0.6)}
QUANTISED = {"batch_size": (100, 450, 5), "conv_pool_res_start_idx": (0, 2, 1), "conv_kernel_size": (2, 4, 1),
             "res_conv_kernel_size": (2, 4, 1)}


def hyperopt_space():
    conditional = {"first_conv": hp.choice("first_conv_size", [3, 4]),
                   "residual": hp.quniform("residual_units", 0.501, 4.499, 1),
                   "one_more_fc": hp.loguniform("fc_units_2_mult", -0.6, 0.6)}
    space = {k: hp.choice(k, [None, conditional[k]] if k in conditional else list(range(n)))
             for k, n in CHOICES.items()}
    space.update({k: hp.loguniform(k, *v) for k, v in LOG.items()})
    space.update({k: hp.uniform(k, *v) for k, v in UNIFORM.items()})
    space.update({k: hp.quniform(k, *v) for k, v in QUANTISED.items()})
    return space


def optuna_space():
    """(always active, {parent: (label, distribution)}): the same as Optuna says it, its steps on a grid."""
    always = {k: CategoricalDistribution(range(n)) for k, n in CHOICES.items()}
    always.update({k: FloatDistribution(np.exp(a), np.exp(b), log=True) for k, (a, b) in LOG.items()})
    always.update({k: FloatDistribution(*v) for k, v in UNIFORM.items()})
    always.update({k: FloatDistribution(a, b, step=q) for k, (a, b, q) in QUANTISED.items()})
    conditional = {"first_conv": ("first_conv_size", CategoricalDistribution([3, 4])),
                   "residual": ("residual_units", FloatDistribution(1, 4, step=1)),
                   "one_more_fc": ("fc_units_2_mult", FloatDistribution(np.exp(-0.6), np.exp(0.6), log=True))}
    return always, conditional


def median_ms(step):
    """step(i) does one suggestion; the first warms up."""
    step(0)
    times, start = [], time.perf_counter()
    while len(times) < REPEATS and (len(times) < 3 or time.perf_counter() - start < MOST_SECONDS):
        before = time.perf_counter()
        step(len(times) + 1)
        times.append(time.perf_counter() - before)
    return 1e3 * statistics.median(times)


def points(n):
    """n prior draws, {label: value}, by hyperopt."""
    domain = Domain(lambda config: 0.0, hyperopt_space())
    idxs, vals = pyll.rec_eval(domain.s_idxs_vals, memo={domain.s_new_ids: list(range(n)),
                                                         domain.s_rng: np.random.default_rng(n)})
    out = [{} for _ in range(n)]
    for label in idxs:
        for trial, value in zip(idxs[label], vals[label]):
            out[trial][label] = value
    return out


def hyperopt_ms(history):
    domain = Domain(lambda config: 0.0, hyperopt_space())
    trials = Trials()
    labels = list(domain.params)
    for tid, (loss, point) in enumerate(history):
        misc = {"tid": tid, "cmd": domain.cmd, "workdir": None,
                "idxs": {k: [tid] if k in point else [] for k in labels},
                "vals": {k: [point[k]] if k in point else [] for k in labels}}
        doc = trials.new_trial_docs([tid], [None], [{"status": "ok", "loss": loss}], [misc])[0]
        doc["state"] = JOB_STATE_DONE
        trials.insert_trial_doc(doc)
    trials.refresh()
    return median_ms(lambda i: tpe.suggest([len(history)], domain, trials, i))


def optuna_ms(history):
    always, conditional = optuna_space()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=False, constant_liar=False, seed=1))
    rng = np.random.default_rng(len(history))
    for loss, _ in history:
        parameters = dict(always)
        values = {k: draw(d, rng) for k, d in always.items()}
        for parent, (label, distribution) in conditional.items():
            if values[parent] == 1:
                parameters[label] = distribution
                values[label] = draw(distribution, rng)
        study.add_trial(optuna.trial.create_trial(params=values, distributions=parameters, value=loss))

    pending = []

    def step(_):
        while pending:  # a failed trial is not part of what the sampler learns from: the count stays
            study.tell(pending.pop(), state=optuna.trial.TrialState.FAIL)
        trial = study.ask()
        values = {k: suggest(trial, k, d) for k, d in always.items()}
        for parent, (label, distribution) in conditional.items():
            if values[parent] == 1:
                suggest(trial, label, distribution)
        pending.append(trial)

    return median_ms(step)


def suggest(trial, label, distribution):
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(label, distribution.choices)
    return trial.suggest_float(label, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def draw(distribution, rng):
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[rng.integers(len(distribution.choices))]
    if distribution.log:
        return float(np.exp(rng.uniform(np.log(distribution.low), np.log(distribution.high))))
    if distribution.step:
        return float(distribution.low + distribution.step * rng.integers(
            round((distribution.high - distribution.low) / distribution.step) + 1))
    return float(rng.uniform(distribution.low, distribution.high))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    lines = subprocess.run([sys.argv[1], "bench", *map(str, TRIALS)], check=True, capture_output=True, text=True).stdout
    parzen = [json.loads(line) for line in lines.splitlines()]
    print("| trials | parzen, ms | joint, ms | hyperopt, ms | Optuna, ms |\n|---:|---:|---:|---:|---:|", flush=True)
    for n, ours in zip(TRIALS, parzen):
        losses = np.random.default_rng(1).normal(size=n)
        history = [(float(loss), point) for loss, point in zip(losses, points(n))]
        ms = ours["ms"], ours["joint_ms"], hyperopt_ms(history), optuna_ms(history)
        print(f"| {n:,} | {' | '.join(f'{x:.3g}' for x in ms)} |", flush=True)
    print(f"{len(parzen)} passed, {len(TRIALS) - len(parzen)} failed")
    return len(parzen) != len(TRIALS)


if __name__ == "__main__":
    sys.exit(main())
