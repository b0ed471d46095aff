#!/usr/bin/env python3
"""parzen learns as Keras does: usage: conformance_learning.py --probe PROBE

Five of the original's published configurations, narrowed (WIDTHS), are trained for 3 epochs in Keras, in float32 and in
float64, and in parzen, from the same first weights and on the same images in the same order, with dropout and flips
off; after each epoch all judge images that they have not seen. The images are random patterns, one for each fine label,
under noise, in random places; or those of CIFAR-100 where PARZEN_CIFAR100 names the folder of train.bin and test.bin.

The float64 run is the truth. Rounding alone makes runs drift apart, since steps divide gradients by their own size; and
a bias in front of a normalisation, whose gradient is 0, wanders in Keras's float32, which training does not feel but
the moving averages do. parzen has no such noise: where the network is smooth it must stay within SMOOTH of the truth.
Where an activation or a maximum has a kink, a rounded value may fall on its other side, and parzen may deviate by the
larger of KINKED and FACTOR times what Keras in float32 does. Losses are relative, accuracies differences. PROBE is tests/net_probe.c, built."""
import argparse
import os
import sys
import tempfile
import time

import numpy as np

import keras_seed as ks

TRAINED, JUDGED, EPOCHS, BATCH = 1000, 250, 3, 50
FACTOR = 3
PHASES = ("training", "judged")
# Of losses, of accuracies: where the network is smooth (no relu, no maximum), and where it has kinks.
SMOOTH, KINKED = (0.0002, 0.01), (0.03, 0.03)
# Narrower layers than published, for the time it takes; the learning rate and all else is as published.
WIDTHS = {"conv_hiddn_units_mult": 0.2, "fc_units_1_mult": 0.2, "one_more_fc": 0.2}
KEYS = ("activation batch_size coarse_labels_weight conv_dropout_drop_proba conv_hiddn_units_mult conv_kernel_size "
        "conv_pool_res_start_idx fc_dropout_drop_proba fc_units_1_mult first_conv l2_weight_reg_mult lr_rate_mult "
        "nb_conv_pool_layers one_more_fc optimizer pooling_type res_conv_kernel_size residual use_BN").split()
PUBLISHED = {
    "model_0.676100_6066e": (
        "elu", 320.0, 0.3067103474295116, 0.25923531175521264, 1.5958302613876916, 3.0, 0.0, 0.4322253354921089,
        1.3083964454436132, 3, 0.41206755600055983, 0.6549347353077412, 3, None, "Nadam", "avg", 2.0, 3.0, True),
    "model_0.649500_9fd5b": (
        "elu", 305.0, 0.333022098985566, 0.34173889208226216, 0.836934306415693, 3.0, 0.0, 0.3807945883876087,
        0.9383867169279256, 3, 0.39742220699719405, 0.8110454509600754, 3, None, "Nadam", "inception", 2.0, 2.0, True),
    "model_0.587300_7809a": (
        "elu", 235.0, 0.39729974033494614, 0.2360812540671378, 0.8574347782313569, 2.0, 0.0, 0.20810763165975488,
        1.0976726786942312, 3, 0.3234527625966639, 0.674067099801263, 3, None, "RMSprop", "all_conv", 2.0, 3.0, True),
    "model_0.573700_b94f6": (
        "elu", 210.0, 0.6604362455637982, 0.12217390586709793, 1.3167753843133014, 4.0, 2.0, 0.5329800746454815,
        0.7637661422733867, 4, 1.1918886825274988, 1.125036660445616, 3, None, "Adam", "max", 4.0, 4.0, True),
    "model_0.336700_5396e": (
        "elu", 130.0, 0.5592686404435413, 0.34456298043777345, 0.5999915082266905, 2.0, 0.0, 0.12278073218906964,
        1.7834178395179807, 3, 3.6639813138106945, 1.5813449525513639, 2, 0.784294686535273, "Nadam", "avg", 3.0, None,
        False)}


def narrowed(values):
    space = dict(zip(KEYS, values), batch_size=BATCH)
    for key, factor in WIDTHS.items():
        if space[key] is not None:
            space[key] *= factor
    return space


def cifar(folder, name, n):
    """The first n records of a file of cifar-100-binary: images, fine and coarse labels."""
    records = np.fromfile(os.path.join(folder, name), np.uint8, n * 3074).reshape(-1, 3074)
    return records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 1], records[:, 0]


def patterns(rng):
    """Random images: a coarse pattern of its fine label, moved a little, in noise; coarse label: fine // 5."""
    label_patterns = np.kron(rng.uniform(0, 180, (ks.FINE, 4, 4, 3)), np.ones((1, 8, 8, 1)))
    out = []
    for n in (TRAINED, JUDGED):
        fine = rng.integers(0, ks.FINE, n)
        images = np.stack([np.roll(label_patterns[label], rng.integers(-6, 7, 2), (0, 1)) for label in fine])
        out.append((np.floor(images + rng.uniform(0, 76, images.shape)), fine, fine // 5))
    return out


def make_batches(rng):
    folder = os.environ.get("PARZEN_CIFAR100")
    sets = [cifar(folder, "train.bin", TRAINED), cifar(folder, "test.bin", JUDGED)] if folder else patterns(rng)
    out = {}
    for name, arrays in zip(("train", "judge"), sets):
        for what, array in zip(("images", "fine", "coarse"), arrays):
            out[f"{name}.{what}"] = array.astype("float32")
    out["order"] = np.stack([rng.permutation(TRAINED) for _ in range(EPOCHS)]).astype("float32")
    return out


def run_keras(net, weights, batches):
    """The same as net_probe learn: [epochs][5] in training, [epochs][5] judged."""
    net.load(weights)
    train, judge = ks.images_of(batches, "train"), ks.images_of(batches, "judge")
    metrics, judged = np.zeros((EPOCHS, 5)), np.zeros((EPOCHS, 5))
    for epoch, order in enumerate(batches["order"].astype(int)):
        for first in range(0, TRAINED, BATCH):
            rows = order[first:first + BATCH]
            metrics[epoch] += np.array(net.step(train, rows)[0][:5]) * len(rows) / TRAINED
        judged[epoch] = net.judge(judge, BATCH)[0][:5]
    return np.stack([metrics, judged])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", required=True)
    arguments = parser.parse_args()
    ks.tf.config.threading.set_intra_op_parallelism_threads(2)
    rng = np.random.default_rng(7)
    batches = make_batches(rng)
    passed = failed = 0
    worst = np.zeros(2)

    for name, values in PUBLISHED.items():
        start = time.time()
        space = narrowed(values)
        net = ks.SeedNet(space, "float32", dropout=False)
        weights = net.first_weights(rng)
        single = run_keras(net, weights, batches)
        truth = run_keras(ks.SeedNet(space, "float64", dropout=False), weights, batches)
        with tempfile.TemporaryDirectory() as folder:
            ours = ks.run_probe(arguments.probe, "learn", space, weights, batches, folder)
        ours = np.stack([ours["metrics"], ours["judge.metrics"]])

        scale = np.where(np.arange(5) < 3, np.abs(truth), 1)
        deviation, noise = np.abs(ours - truth) / scale, np.abs(single - truth) / scale
        if space["activation"] == "relu" or space["pooling_type"] in ("max", "inception"):
            allowed = np.maximum(np.repeat(KINKED, [3, 2]), FACTOR * noise.max(axis=1, keepdims=True))
        else:
            allowed = np.repeat(SMOOTH, [3, 2])
        good = deviation <= allowed
        worst = np.maximum(worst, [deviation[..., :3].max(), deviation[..., 3:].max()])
        print(f"{name}, {space['optimizer']}, {space['pooling_type']}, {time.time() - start:.0f} s")
        print(" " * 30 + "  ".join(f"{what:>15}" for what in ks.METRICS))
        for phase, title in enumerate(PHASES):
            for epoch in range(EPOCHS):
                for who, run in (("Keras, float64", truth), ("Keras, float32", single), ("parzen", ours)):
                    row = "  ".join(f"{x:15.6f}" for x in run[phase, epoch])
                    print(f"    {title:8} {epoch + 1} {who:14} {row}")
                if not good[phase, epoch].all():
                    print("    failed: parzen deviates by", ", ".join(f"{x:.1e}" for x in deviation[phase, epoch]))
        print(f"    largest deviation: losses {deviation[..., :3].max():.1e}, accuracies {deviation[..., 3:].max():.4f}; "
              f"Keras in float32: {noise[..., :3].max():.1e}, {noise[..., 3:].max():.4f}")
        sys.stdout.flush()
        passed += int(good.sum())
        failed += int((~good).sum())
    print(f"largest deviations: losses {worst[0]:.1e} of the loss, accuracies {worst[1]:.4f}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
