#!/usr/bin/env python3
"""What the two TPEs find on real networks in as many trials: usage: bench_networks.py PARZEN CIFAR100 OUT [SEEDS]

CIFAR-100's 20 superclasses, two of a kind put together, make ten classes (OUT/cifar-10-batches-bin): enough to tell
networks apart after six epochs on 2,000 images, judged on 1,000. The original's space, at a fifth of its widths; 50
trials, --tpe joint and --tpe hyperopt with each of SEEDS (8) seeds, a search a core. What a search has found is trained
again, twice, from other weights, and judged on the 10,000 test images: the best of 50 accuracies on 1,000 images is
also the luckiest. OUT keeps the searches: the same command goes on, and with more SEEDS adds to them. Prints the median
over seeds, in how many of 100 pairs of searches joint's is the better one, and how likely that is by chance."""
import json
import multiprocessing.pool
import os
import re
import subprocess
import sys

import numpy as np
from scipy import stats

# Water animals, plants, food, household, large mammals, small mammals, invertebrates, outdoor scenes, people and
# reptiles, vehicles: by the numbers of the superclasses.
CLASSES = ((0, 1), (2, 17), (3, 4), (5, 6), (8, 11), (12, 16), (7, 13), (9, 10), (14, 15), (18, 19))
OPTIONS = "--images 2000 --epochs 6 --width 0.2 --threads 1 --device cpu --quiet"
AFTER = (10, 20, 30, 40, 50)
AGAIN = ("101", "102")


def make_classes(cifar100, folder):
    os.makedirs(folder, exist_ok=True)
    of = np.zeros(20, np.uint8)
    for i, pair in enumerate(CLASSES):
        of[list(pair)] = i
    for source, files in (("train.bin", [f"data_batch_{i}.bin" for i in range(1, 6)]), ("test.bin", ["test_batch.bin"])):
        records = np.fromfile(os.path.join(cifar100, source), np.uint8).reshape(-1, 3074)  # coarse, fine, pixels
        records = np.concatenate([of[records[:, :1]], records[:, 2:]], 1)
        for i, name in enumerate(files):
            records[i * 10000:(i + 1) * 10000].tofile(os.path.join(folder, name))


def trained_again(parzen, out, results):
    best = max(name for name in os.listdir(results) if name.startswith("model_"))
    accuracies = []
    for seed in AGAIN:
        printed = subprocess.run([parzen, "train", os.path.join(results, best), "--data", out, "--seed", seed,
                                  "--objective", "test", "--json", *OPTIONS.split()], check=True, capture_output=True)
        accuracies.append(json.loads(printed.stdout)["fine_best_accuracy"])
    return np.mean(accuracies)


def accuracies_of(parzen, out, tpe, seed):
    results = os.path.join(out, f"{tpe}_{seed}")
    subprocess.run([parzen, "search", "--data", out, "--results", results, "--seed", str(seed), "--tpe", tpe,
                    "--trials", str(AFTER[-1]), "--validation", "1000", "--checkpoint-every", "0", *OPTIONS.split()],
                   check=True)
    listed = subprocess.run([parzen, "list", results], check=True, capture_output=True, text=True).stdout
    trials = re.findall(r"^ *(\d+) +(?:([0-9.]+) .*model_|.*failed)", listed, re.M)
    accuracies = [float(accuracy or 0) for _, accuracy in sorted(trials, key=lambda t: int(t[0]))]
    return [max(accuracies[:k]) for k in AFTER] + [np.mean(accuracies[-10:]), trained_again(parzen, out, results)]


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    parzen, cifar100, out = (os.path.abspath(path) for path in sys.argv[1:4])
    seeds = int(sys.argv[4]) if len(sys.argv) == 5 else 8
    if not os.path.exists(os.path.join(out, "cifar-10-batches-bin", "test_batch.bin")):
        make_classes(cifar100, os.path.join(out, "cifar-10-batches-bin"))
    jobs = [(parzen, out, tpe, seed) for seed in range(1, seeds + 1) for tpe in ("joint", "hyperopt")]
    with multiprocessing.pool.ThreadPool(os.cpu_count()) as pool:
        best = np.array(pool.starmap(accuracies_of, jobs, chunksize=1)).reshape(seeds, 2, -1)
    print(f"median of {seeds} seeds | joint | hyperopt | joint better | p\n|---|---:|---:|---:|---:|")
    rows = [f"best of {n} trials" for n in AFTER] + ["mean of the last 10", "the best, trained again"]
    for k, what in enumerate(rows):
        joint, hyperopt = best[:, 0, k], best[:, 1, k]
        test = stats.mannwhitneyu(joint, hyperopt)
        print(f"| {what} | {np.median(joint):.3f} | {np.median(hyperopt):.3f} | "
              f"{100 * test.statistic / seeds ** 2:.0f} | {test.pvalue:.2g} |")


if __name__ == "__main__":
    main()
