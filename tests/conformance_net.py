#!/usr/bin/env python3
"""parzen's network held against Keras: usage: conformance_net.py --probe PROBE [--results DIR] [CONFIG...]

PROBE is tests/net_probe.c, built. CONFIG: configurations or result files to take instead of the table below; --results:
a folder of result files to take besides it. Each configuration runs in parzen, in Keras in float32 and in Keras in
float64, from the same weights on the same batches of 8 images, without flips and dropout, and is compared in:

  layers      every layer's output on the first batch                  largest difference / largest output
  losses      loss, fine and coarse loss of the first step             relative
  accuracies  of the first step and of the evaluation                  outside what ties allow (see below)
  gradients   of every parameter, first step, without L2               norm of the difference / norm
  update      weights and moments after the first and after the last   norm of the difference / norm of the change,
              step against the rule of Keras 2.0.6 applied, in         less the weights' own rounding
              double, to parzen's own gradient and moments
  moving      moving averages after the first step                     largest difference / largest
  evaluation  losses and layers through the moving averages, Keras     as layers and losses
              having parzen's weights of after the last step
  weights 1, weights 20   all kernels after that many steps, and all   norm of the difference / norm of the change
              other parameters, and the moving averages
  losses 20   the losses of all steps                                  relative

The float64 run is the truth. parzen's deviation from it must be below the tolerance of its quantity (TOLERANCE), or
below FACTOR times the deviation that is usual (the median over the quantity) for Keras itself in float32: what rounding
alone does there. Two things make rounding large. Where an activation or a maximum has a kink (relu, max, inception),
a rounded value may fall on its other side, and a whole element of a gradient changes: the tolerance is KINKED. And all
three rules divide the gradient by its own size: the sign of a gradient that is nearly 0 decides about a full step, so
weights drift apart; hence `update`, which is free of that.

Gradients that are 0 (a bias in front of a normalisation, the beta of the first of two) are compared with the largest
gradient of the network. Keras gives rounding noise there, which its rules blow up to full steps in float32 and which no
output feels. Accuracies: sigmoids saturate, so that classes tie in float32 which do not in float64; parzen's must lie
between the accuracies with all near ties lost and all won."""
import argparse
import collections
import glob
import json
import math
import os
import sys
import tempfile
import time

import numpy as np

import keras_seed as ks

BATCH, STEPS, IMAGES, JUDGED = 8, 20, 24, 12
FACTOR = 4
TOLERANCE = {"layers": 1e-5, "losses": 1e-6, "accuracies": 1e-6, "gradients": 2e-4, "update": 1e-4, "moving": 1e-6,
             "evaluation": 1e-5, "weights 1": 5e-2, "weights 20": 5e-2, "losses 20": 1e-3}
KINKED = {"gradients": 5e-2, "weights 1": 2e-1, "weights 20": 2e-1, "losses 20": 2e-2}

# A low learning rate, so that 20 steps stay comparable; the published ones have their own.
BASE = {"lr_rate_mult": 0.3, "l2_weight_reg_mult": 1.0, "batch_size": 8, "coarse_labels_weight": 0.2,
        "conv_dropout_drop_proba": 0.175, "fc_dropout_drop_proba": 0.3, "nb_conv_pool_layers": 2, "residual": None,
        "fc_units_1_mult": 0.55, "one_more_fc": None}
COLUMNS = ("pooling_type conv_kernel_size first_conv residual res_conv_kernel_size conv_pool_res_start_idx use_BN "
           "one_more_fc conv_hiddn_units_mult activation optimizer").split()
TABLE = [dict(zip(COLUMNS, row)) for row in (
    ("max", 1, None, None, 3, 0, False, None, 0.55, "relu", "Adam"),
    ("max", 2, 3, 2, 2, 0, True, 0.8, 0.7, "relu", "RMSprop"),
    ("max", 3, 4, 1, 3, 1, False, None, 1.0, "elu", "Nadam"),
    ("avg", 4, None, 3, 4, 0, True, None, 0.8, "elu", "Adam"),
    ("avg", 1, 2, None, 3, 0, True, 0.55, 1.2, "relu", "Nadam"),
    ("avg", 2, 1, 2, 3, 0, False, None, 0.9, "elu", "RMSprop"),
    ("all_conv", 3, 3, None, 3, 0, False, 1.2, 0.6, "elu", "Adam"),
    ("all_conv", 4, 4, 2, 1, 0, True, None, 0.75, "relu", "Nadam"),
    ("all_conv", 2, None, 4, 2, 1, True, None, 0.65, "elu", "RMSprop"),
    ("inception", 3, 3, 2, 3, 0, True, None, 1.82, "elu", "Adam"),
    ("inception", 1, 4, None, 3, 0, False, None, 1.1, "relu", "Nadam"),
    ("inception", 4, None, 1, 4, 0, False, 0.6, 0.55, "elu", "RMSprop"))]
TABLE[0]["nb_conv_pool_layers"] = 3
TABLE[8]["nb_conv_pool_layers"] = 3
TABLE[1]["lr_rate_mult"] = 0.05
# Two of the original's published results: its best, and its best but two.
PUBLISHED = {
    "model_0.676100_6066e": {
        "activation": "elu", "batch_size": 320.0, "coarse_labels_weight": 0.3067103474295116,
        "conv_dropout_drop_proba": 0.25923531175521264, "conv_hiddn_units_mult": 1.5958302613876916,
        "conv_kernel_size": 3.0, "conv_pool_res_start_idx": 0.0, "fc_dropout_drop_proba": 0.4322253354921089,
        "fc_units_1_mult": 1.3083964454436132, "first_conv": 3, "l2_weight_reg_mult": 0.41206755600055983,
        "lr_rate_mult": 0.6549347353077412, "nb_conv_pool_layers": 3, "one_more_fc": None, "optimizer": "Nadam",
        "pooling_type": "avg", "res_conv_kernel_size": 2.0, "residual": 3.0, "use_BN": True},
    "model_0.652900_99a55": {
        "activation": "elu", "batch_size": 440.0, "coarse_labels_weight": 0.4345966103111998,
        "conv_dropout_drop_proba": 0.30382184837650134, "conv_hiddn_units_mult": 1.8056381118519385,
        "conv_kernel_size": 3.0, "conv_pool_res_start_idx": 2.0, "fc_dropout_drop_proba": 0.4678305599678976,
        "fc_units_1_mult": 0.8264521741078734, "first_conv": 3, "l2_weight_reg_mult": 0.7544518370433199,
        "lr_rate_mult": 0.6350638921762889, "nb_conv_pool_layers": 3, "one_more_fc": None, "optimizer": "Nadam",
        "pooling_type": "inception", "res_conv_kernel_size": 4.0, "residual": 2.0, "use_BN": True}}


def configurations(arguments):
    """[(name, configuration)]"""
    out = []
    if not arguments.config:
        for row in TABLE:
            name = " ".join(f"{row[key]}" for key in COLUMNS)
            out.append((name, {**BASE, **row}))
        out += PUBLISHED.items()
    files = arguments.config
    if arguments.results:
        files = files + sorted(glob.glob(os.path.join(arguments.results, "*.json")))
    for path in files:
        with open(path) as file:
            space = json.load(file)
        out.append((os.path.basename(path), space.get("space", space)))
    return [(name, {**space, "batch_size": BATCH}) for name, space in out]


def make_batches(rng):
    """Random patterns: smooth colours and noise on them."""
    out = {}
    for name, n in (("train", IMAGES), ("judge", JUDGED)):
        smooth = np.kron(rng.uniform(0, 200, (n, 4, 4, 3)), np.ones((1, 8, 8, 1)))
        out[f"{name}.images"] = np.floor(smooth + rng.uniform(0, 56, (n, 32, 32, 3)))
        out[f"{name}.fine"] = rng.integers(0, ks.FINE, n)
        out[f"{name}.coarse"] = rng.integers(0, ks.COARSE, n)
    out["order"] = np.stack([rng.permutation(IMAGES)[:BATCH] for _ in range(STEPS)])
    return {name: array.astype("float32") for name, array in out.items()}


def run_keras(net, batches, weights, judged_weights):
    """What net_probe writes, by the same names; evaluation with judged_weights."""
    train, out = ks.images_of(batches, "train"), {}
    net.load(weights)
    metrics = []
    for i, row in enumerate(batches["order"].astype(int)):
        numbers, outputs, gradients = net.step(train, row)
        metrics.append(numbers)
        if i == 0:
            out.update({f"train.{name}": y.numpy() for name, y in outputs.items()})
            out.update({f"gradient.{name}": g.numpy() for name, g in gradients.items()})
            out.update({f"first.{name}": w for name, w in net.read().items()})
    out.update({f"last.{name}": w for name, w in net.read().items()})
    out["metrics"] = np.array(metrics)
    net.load(judged_weights)
    out["judge.metrics"], outputs = net.judge(ks.images_of(batches, "judge"), BATCH)
    out.update({f"judge.{name}": y.numpy() for name, y in outputs.items()})
    return out


def part(tensors, prefix):
    return {name[len(prefix):]: array for name, array in tensors.items() if name.startswith(prefix)}


def largest(x, truth, least=0.0):
    x = x.reshape(truth.shape).astype("float64")
    return np.abs(x - truth).max() / max(np.abs(truth).max(), least)


def norm(x):
    return float(np.linalg.norm(np.asarray(x, "float64").ravel()))


def is_zero(gradient, scale):
    return norm(gradient) < 1e-9 * scale * math.sqrt(gradient.size)


def group_of(name):
    what = name.rsplit(".", 1)[1]
    return {"kernel": "kernels", "moving_mean": "moving means", "moving_variance": "moving variances"}.get(
        what, "biases, gammas and betas")


def deviations(x, truth, weights):
    """{quantity: {name: deviation}} of a run from the truth: all but `update` and `accuracies`."""
    out = collections.defaultdict(dict)
    for phase, quantity in (("train.", "layers"), ("judge.", "evaluation")):
        for name, y in part(truth, phase).items():
            if name != "metrics":
                out[quantity][name] = largest(x[phase + name], y)
    for i, name in enumerate(ks.METRICS[:3]):
        relative = np.abs(x["metrics"][:, i] / truth["metrics"][:, i] - 1)
        out["losses"][name], out["losses 20"][name] = relative[0], relative.max()
        out["evaluation"][name] = abs(x["judge.metrics"][i] / truth["judge.metrics"][i] - 1)

    gradients = part(truth, "gradient.")
    scale = max(np.abs(g).max() for g in gradients.values())
    for name, g in gradients.items():
        of = scale * math.sqrt(g.size) if is_zero(g, scale) else norm(g)
        out["gradients"][name] = norm(x["gradient." + name] - g) / of

    for name, w in part(truth, "first.").items():
        if ".moving_" in name:
            out["moving"][name] = largest(x["first." + name], w)
    for phase, quantity in (("first.", "weights 1"), ("last.", "weights 20")):
        differences, changes = collections.defaultdict(list), collections.defaultdict(list)
        for name, w in part(truth, phase).items():
            if name not in gradients or not is_zero(gradients[name], scale):
                differences[group_of(name)].append(norm(x[phase + name] - w))
                changes[group_of(name)].append(norm(w - weights[name]))
        for group in differences:
            out[quantity][group] = norm(differences[group]) / norm(changes[group])
    return out


def accuracy_deviations(ours, truth):
    """How far parzen's accuracies lie outside the bounds that near ties leave."""
    out = {}
    for name, x, bounds in (("training", ours["metrics"][0], truth["metrics"][0]),
                            ("evaluation", ours["judge.metrics"], truth["judge.metrics"])):
        for i, head in enumerate(("fine", "coarse")):
            lost, won = bounds[len(ks.METRICS) + 2 * i:][:2]
            out[f"{name} {head}"] = max(lost - x[3 + i], x[3 + i] - won, 0)
    return out


def update_deviations(x, weights, space):
    """parzen's first and last step against the rule applied to parzen's own gradients, weights and moments."""
    out, l2 = {}, 0.0007 * space["l2_weight_reg_mult"]
    names = list(part(x, "gradient."))
    moments = ("v",) if space["optimizer"] == "RMSprop" else ("m", "v")
    for step, gradients, before, after in ((1, part(x, "gradient."), None, "first."),
                                           (STEPS, part(x, "last.gradient."), "before.", "last.")):
        start = part(x, before) if before else weights
        variables = [ks.tf.Variable(start[name].astype("float64")) for name in names]
        optimiser = ks.OPTIMISERS[space["optimizer"]](0.001 * space["lr_rate_mult"], variables)
        for _ in range(step):
            scalars = optimiser.scalars()
        if before:
            for what, slots in zip(moments, optimiser.slots):
                for slot, name in zip(slots, names):
                    slot.assign(start[f"{what}.{name}"])
        optimiser.update([gradients[name].astype("float64") + (2 * l2 * start[name] if name.endswith(".kernel") else 0)
                          for name in names], scalars)
        for i, name in enumerate(names):
            w = variables[i].numpy()
            change = max(norm(w - start[name]), 1e-3 * optimiser.lr * math.sqrt(w.size))
            out[f"{after}{name}"] = max(norm(x[after + name] - w) - norm(w) * 2.0 ** -24, 0) / change
            for what, slots in zip(moments, optimiser.slots):
                if before and norm(slots[i].numpy()) > 0:
                    moment = slots[i].numpy()
                    out[f"{after}{what}.{name}"] = norm(x[f"{after}{what}.{name}"] - moment) / norm(moment)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", required=True)
    parser.add_argument("--results")
    parser.add_argument("config", nargs="*")
    arguments = parser.parse_args()
    ks.tf.config.threading.set_intra_op_parallelism_threads(2)
    passed = failed = 0
    worst = {quantity: (0.0, 0.0, "") for quantity in TOLERANCE}

    for number, (name, space) in enumerate(configurations(arguments)):
        start = time.time()
        rng = np.random.default_rng(1000 + number)
        batches = make_batches(rng)
        net32 = ks.SeedNet(space, "float32", dropout=False)
        weights = net32.first_weights(rng, varied=True)
        with tempfile.TemporaryDirectory() as folder:
            ours = ks.run_probe(arguments.probe, "compare", space, weights, batches, folder)
        last = {name: ours["last." + name] for name in weights}
        keras32 = run_keras(net32, batches, weights, last)
        net64 = ks.SeedNet(space, "float64", dropout=False)
        truth = run_keras(net64, batches, weights, last)

        found, own = deviations(ours, truth, weights), deviations(keras32, truth, weights)
        found["accuracies"] = own["accuracies"] = accuracy_deviations(ours, truth)
        found["update"] = update_deviations(ours, weights, space)
        own["update"] = {"": 0.0}
        kinked = space["activation"] == "relu" or space["pooling_type"] in ("max", "inception")
        print(f"{number + 1}. {name}: {len(part(ours, 'train.'))} layers, {len(part(ours, 'gradient.'))} parameters, "
              f"{time.time() - start:.0f} s")
        for quantity, tolerance in TOLERANCE.items():
            if not found[quantity]:
                continue
            if kinked:
                tolerance = KINKED.get(quantity, tolerance)
            rounding = 0.0 if quantity == "accuracies" else float(np.median(list(own[quantity].values())))
            allowed = max(tolerance, FACTOR * rounding)
            bad = {k: v for k, v in found[quantity].items() if not v <= allowed}
            at = max(found[quantity], key=found[quantity].get)
            print(f"    {quantity:11} {found[quantity][at]:.1e} ({at}), Keras in float32: median {rounding:.1e}, "
                  f"largest {max(own[quantity].values()):.1e}")
            if found[quantity][at] >= worst[quantity][0]:
                worst[quantity] = (found[quantity][at], rounding, f"{number + 1}, {at}")
            passed += len(found[quantity]) - len(bad)
            failed += len(bad)
            for k, v in bad.items():
                print(f"failed: {quantity} {k}: {v:.2e}, allowed {allowed:.1e}")
        sys.stdout.flush()

    print("largest deviations:")
    for quantity, (deviation, rounding, where) in worst.items():
        print(f"    {quantity:11} {deviation:.1e}  Keras in float32 there: median {rounding:.1e}  ({where})")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
