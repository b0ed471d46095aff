#!/usr/bin/env python3
"""The original's analysis, run on parzen's results: usage: conformance_results.py --parzen PATH [--published DIR]

A small search on the synthetic images leaves a folder of result files. What people run on the original's folder is run
on it: load every file, sort by name, take the last one's `space` as the best, make a data frame of the hyperparameters
and the accuracies, draw its scatter matrix. Then the files are checked: the original's keys with the original's types
and nothing missing, histories as long as each other, the names' order that of the accuracies, the summary numbers those
of the history, and all of them equal to what `parzen list` and `parzen best` print.

--published DIR is a folder of the original's own result files: the keys that are expected here are then checked on it,
and both folders must make one data frame. --picture FILE keeps the scatter matrix. It ends with "N passed, N failed"."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import matplotlib
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 (the back end must be chosen first)

TRIALS = 14
SEARCH = ["--data", "synthetic", "--images", "200", "--validation", "200", "--epochs", "3", "--width", "0.1",
          "--trials", str(TRIALS), "--quiet"]

# What the published files hold. An int where a float is expected is one too (a notebook cannot tell 1 from 1.0), but
# not the other way round: an index must stay an integer.
KEYS = {"coarse_best_accuracy": float, "coarse_best_loss": float, "coarse_end_accuracy": float,
        "coarse_end_loss": float, "fine_best_accuracy": float, "fine_best_loss": float, "fine_end_accuracy": float,
        "fine_end_loss": float, "history": dict, "loss": float, "model_name": str, "real_loss": float, "space": dict,
        "status": str}
HISTORY = [val + key for val in ("", "val_") for key in ("coarse_outputs_acc", "coarse_outputs_loss",
                                                         "fine_outputs_acc", "fine_outputs_loss", "loss")]
NONE = type(None)
SPACE = {"activation": (str,), "batch_size": (float,), "coarse_labels_weight": (float,),
         "conv_dropout_drop_proba": (float,), "conv_hiddn_units_mult": (float,), "conv_kernel_size": (float,),
         "conv_pool_res_start_idx": (float,), "fc_dropout_drop_proba": (float,), "fc_units_1_mult": (float,),
         "first_conv": (int, NONE), "l2_weight_reg_mult": (float,), "lr_rate_mult": (float,),
         "nb_conv_pool_layers": (int,), "one_more_fc": (float, NONE), "optimizer": (str,), "pooling_type": (str,),
         "res_conv_kernel_size": (float,), "residual": (float, NONE), "use_BN": (bool,)}
OURS_BESIDES = {"note": str, "parameters": int, "seconds": float}
ACCURACIES = ["fine_best_accuracy", "fine_end_accuracy", "coarse_best_accuracy", "coarse_end_accuracy"]

passed = failed = 0


def check(good, message):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("failed:", message)


# ---- the analysis, which knows of no parzen ----

def load(folder):
    """[(file name, its contents)], sorted by name: the best is last."""
    names = sorted(name for name in os.listdir(folder) if "json" in name)
    results = []
    for name in names:
        with open(os.path.join(folder, name)) as file:
            results.append((name, json.load(file)))
    return results


def frame(results):
    """A row a trial: its hyperparameters, then the accuracies."""
    return pd.DataFrame([{**result["space"], **{key: result[key] for key in ACCURACIES}} for _, result in results])


def scatter(table, path):
    """Every hyperparameter against every other and the accuracies, as the original's picture: (axes, text columns)."""
    numbers = pd.DataFrame(index=table.index)
    words = []
    for column in table:
        if table[column].map(lambda x: isinstance(x, (str, bool))).any():  # a choice: the index of its option
            numbers[column] = pd.Categorical(table[column]).codes
            words.append(column)
        else:  # an option that is not taken: below all others
            numbers[column] = pd.to_numeric(table[column]).fillna(0)
    axes = pd.plotting.scatter_matrix(numbers, figsize=(len(numbers.columns),) * 2, diagonal="hist", alpha=0.8, s=40)
    for axis in axes.ravel():
        axis.xaxis.label.set(rotation=30, ha="right", size=8)
        axis.yaxis.label.set(rotation=30, ha="right", size=8)
    pyplot.savefig(path, dpi=50)
    pyplot.close("all")
    return axes, words


# ---- the checks ----

def is_a(value, kinds):
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def check_keys(results, besides, whose):
    for name, result in results:
        where = f"{whose}: {name}"
        expected = {**KEYS, **besides}
        check(sorted(result) == sorted(expected), f"{where}: keys: {sorted(set(result) ^ set(expected))}")
        check(list(result) == sorted(result), f"{where}: the keys are not sorted")
        wrong = [key for key in expected if key in result and not is_a(result[key], (expected[key],))]
        check(not wrong, f"{where}: types of {wrong}")
        space = result["space"]
        check(sorted(space) == sorted(SPACE), f"{where}: space: {sorted(set(space) ^ set(SPACE))}")
        wrong = [f"{key} {space[key]!r}" for key in SPACE if key in space and not is_a(space[key], SPACE[key])]
        check(not wrong, f"{where}: types in space: {wrong}")
        check(sorted(result["history"]) == sorted(HISTORY), f"{where}: the history's keys")
        lengths = {len(result["history"].get(key, [])) for key in HISTORY}
        check(len(lengths) == 1 and min(lengths) > 0, f"{where}: the history's lengths: {lengths}")
        check(all(is_a(x, (float,)) for values in result["history"].values() for x in values),
              f"{where}: the history has something other than numbers")


def check_order(results, whose):
    accuracies = [result["fine_best_accuracy"] for _, result in results]
    check(accuracies == sorted(accuracies), f"{whose}: the names' order is not the accuracies'")
    for name, result in results:
        check(name == result["model_name"] + ".txt.json", f"{whose}: {name} holds {result['model_name']}")
        shown = name.split("_")[1]
        check(abs(float(shown) - result["fine_best_accuracy"]) < 1e-6, f"{whose}: {name}: the accuracy in the name")


def check_summary(name, result):
    """The numbers beside the history are numbers of the history."""
    history = result["history"]
    for head in ("fine", "coarse"):
        accuracy, loss = history[f"val_{head}_outputs_acc"], history[f"val_{head}_outputs_loss"]
        for key, value in (("best_accuracy", max(accuracy)), ("best_loss", min(loss)), ("end_accuracy", accuracy[-1]),
                           ("end_loss", loss[-1])):
            check(result[f"{head}_{key}"] == value, f"{name}: {head}_{key}")
    check(result["loss"] == -result["fine_best_accuracy"], f"{name}: loss")
    check(result["real_loss"] == history["val_loss"][-1], f"{name}: real_loss")
    check(result["status"] == "ok", f"{name}: status")


def check_list(results, parzen, folder):
    output = subprocess.run([parzen, "list", folder], check=True, capture_output=True, text=True).stdout
    lines = output.splitlines()
    check(lines[0].startswith("seed "), f"list: begins with the seed, not {lines[0]!r}")
    check(lines[1].split() == ["trial", "fine", "coarse", "epochs", "time", "result"], f"list: the columns: {lines[1]!r}")
    rows = [line.split() for line in lines[2:]]
    check(len(rows) == TRIALS, f"list: {len(rows)} rows of {TRIALS}")
    check(sorted(int(row[0]) for row in rows) == list(range(1, TRIALS + 1)), "list: the trials' numbers")
    results = {result["model_name"]: result for _, result in results}
    listed = {row[5]: row for row in rows if row[5] != "failed:"}
    check(sorted(listed) == sorted(results), "list: the names are not those of the files")
    fine = [float(row[1]) for row in listed.values()]
    check(fine == sorted(fine), "list: the best is not last")
    for name in sorted(set(listed) & set(results)):
        row, result = listed[name], results[name]
        best = result["history"]["val_fine_outputs_acc"].index(result["fine_best_accuracy"])
        check(row[1] == f"{result['fine_best_accuracy']:.4f}", f"list: {name}: fine {row[1]}")
        coarse = (result["coarse_best_accuracy"], result["history"]["val_coarse_outputs_acc"][best])
        check(row[2] in [f"{x:.4f}" for x in coarse], f"list: {name}: coarse {row[2]}, not one of {coarse}")
        check(int(row[3]) == len(result["history"]["loss"]), f"list: {name}: {row[3]} epochs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parzen", required=True)
    parser.add_argument("--published")
    parser.add_argument("--picture")
    options = parser.parse_args()
    parzen = os.path.abspath(options.parzen)

    with tempfile.TemporaryDirectory() as temporary:
        folder = os.path.join(temporary, "results")
        subprocess.run([parzen, "search", "--results", folder, *SEARCH], check=True, stdout=subprocess.DEVNULL)
        results = load(folder)
        check(len(results) == TRIALS, f"{len(results)} files of {TRIALS} trials")

        check_keys(results, OURS_BESIDES, "ours")
        check_order(results, "ours")
        for name, result in results:
            check_summary(name, result)
        check_list(results, parzen, folder)
        best = subprocess.run([parzen, "best", folder], check=True, capture_output=True, text=True).stdout
        check(json.loads(best) in [result["space"] for _, result in results
                                   if result["fine_best_accuracy"] == results[-1][1]["fine_best_accuracy"]],
              "best prints another configuration than the last file's")

        table = frame(results)
        check(list(table.columns) == [*results[0][1]["space"], *ACCURACIES], "the data frame's columns")
        check(len(table) == TRIALS and not table[ACCURACIES].isna().any().any(), "the data frame's rows")
        check(table["fine_best_accuracy"].nunique() > 3, "the trials' accuracies say nothing")
        picture = options.picture or os.path.join(temporary, "scatter.png")
        axes, words = scatter(table, picture)
        check(axes.shape == (len(table.columns),) * 2 and os.path.getsize(picture) > 10000, "the scatter matrix")
        check(sorted(words) == ["activation", "optimizer", "pooling_type", "use_BN"], f"columns of words: {words}")
        print(f"ours: {len(results)} files, {len(table.columns)} columns, fine accuracy "
              f"{table['fine_best_accuracy'].min():.4f} to {table['fine_best_accuracy'].max():.4f}")

        if options.published:
            published = load(options.published)
            check(len(published) > 0, "no published files")
            check_keys(published, {}, "published")
            check_order(published, "published")
            theirs = frame(published)
            check(sorted(theirs.columns) == sorted(table.columns), "the two data frames' columns")
            both = pd.concat([theirs, table], ignore_index=True)
            check(len(both) == len(theirs) + len(table) and sorted(both.columns) == sorted(theirs.columns),
                  "the data frame of both")
            for key in theirs:
                kinds = [t[key].dropna().map(type).unique().tolist() for t in (theirs, table)]
                check(not kinds[0] or not kinds[1] or kinds[0] == kinds[1], f"column {key}: {kinds}")
            print(f"published: {len(published)} files, the same keys, types and columns")
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
