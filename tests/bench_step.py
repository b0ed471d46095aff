#!/usr/bin/env python3
"""Times a training step on the CPU, in parzen and in Keras: usage: bench_step.py --probe PROBE [CONFIG...]

A step is forward, both losses, L2, backward and the update, of one batch of random images, with dropout and batch
normalisation as the configuration says. Keras: tests/keras_seed.py's network in one tf.function, with the optimised
kernels that TensorFlow ships (oneDNN) and with its plain ones; parzen: tests/net_probe.c, built. The three take turns,
ROUNDS times, each with STEPS steps after WARM steps that are not counted. Prints a table: the median over all steps, and
in parentheses the fastest one, which a machine with other work to do disturbs less.
CONFIG: configurations or result files instead of the original's best two. Not part of `make conformance`: timings are
no tests."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

BATCH, THREADS, ROUNDS, WARM, STEPS = 100, 2, 3, 2, 5


def time_keras(path):
    """In a process of its own: one line of seconds per step."""
    import numpy as np
    import keras_seed as ks

    ks.tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    ks.tf.config.threading.set_inter_op_parallelism_threads(1)
    with open(path) as file:
        net = ks.SeedNet(json.load(file), fused=True)
    rng = np.random.default_rng(1)
    images = {"images": rng.integers(0, 256, (BATCH, 32, 32, 3)).astype("float32"),
              "fine": rng.integers(0, ks.FINE, BATCH), "coarse": rng.integers(0, ks.COARSE, BATCH)}
    inputs = net.inputs(images, np.arange(BATCH))
    step = ks.tf.function(net.train_only)
    for _ in range(WARM + STEPS):
        scalars = [ks.tf.constant(x, net.dtype) for x in net.optimiser.scalars()]
        start = time.perf_counter()
        float(step(*inputs, scalars))
        print(f"{time.perf_counter() - start:.6f}")


def run(command, **environment):
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                            env={**os.environ, **environment}).stdout
    return [float(line) for line in output.split()][WARM:]


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--keras":
        time_keras(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", required=True)
    parser.add_argument("config", nargs="*")
    arguments = parser.parse_args()
    spaces = {}
    for path in arguments.config:
        with open(path) as file:
            space = json.load(file)
        spaces[os.path.basename(path)] = space.get("space", space)
    if not spaces:
        from conformance_net import PUBLISHED
        spaces = PUBLISHED

    print("| configuration | parzen, ms | Keras with oneDNN, ms | Keras without, ms | Keras / parzen |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.json")
        for name, space in spaces.items():
            with open(path, "w") as file:
                json.dump({**space, "batch_size": BATCH}, file)
            times = [[], [], []]
            for _ in range(ROUNDS):
                times[0] += run([arguments.probe, "time", path, str(THREADS), str(WARM + STEPS)])
                for i, onednn in ((1, "1"), (2, "0")):
                    times[i] += run([sys.executable, __file__, "--keras", path], TF_ENABLE_ONEDNN_OPTS=onednn)
            median, least = ([1000 * f(t) for t in times] for f in (statistics.median, min))
            cells = [f"{m:.0f} ({l:.0f})" for m, l in zip(median, least)]
            ratios = [min(x[1:]) / x[0] for x in (median, least)]
            print(f"| `{name}` | {' | '.join(cells)} | {ratios[0]:.2f} ({ratios[1]:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
