"""Are the trials of two results folders the same, each recorded once? Usage: python3 same_trials.py A B N

Reads the result files (model_*.txt.json) of both: N in each, equal in everything but the seconds that they took. The
name of a result file comes from the search's seed and the trial's number, so equal names are equal trials. Prints what
differs, and exits with 1.
"""
import glob
import json
import os
import sys


def read(folder):
    trials = {}
    for path in glob.glob(os.path.join(folder, 'model_*.txt.json')):
        with open(path) as f:
            trial = json.load(f)
        del trial['seconds']
        trials[os.path.basename(path)] = trial
    return trials


def main():
    for folder in sys.argv[1:3]:
        if not os.path.isdir(folder):
            print('%s: is not there' % folder)
            return 1
    a_folder, b_folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    a, b = read(a_folder), read(b_folder)
    wrong = []
    for folder, trials in ((a_folder, a), (b_folder, b)):
        if len(trials) != n:
            wrong.append('%s: %d result files, not %d' % (folder, len(trials), n))
        left = [f for f in os.listdir(folder) if f.endswith('.state')]
        if left:
            wrong.append('%s: left behind: %s' % (folder, ' '.join(left)))
    for name in sorted(set(a) ^ set(b)):
        wrong.append('%s: only in %s' % (name, a_folder if name in a else b_folder))
    for name in sorted(set(a) & set(b)):
        # json.dumps, not ==: it tells 0.0 from -0.0, and a NaN equals itself.
        differ = [key for key in a[name] if json.dumps(a[name][key]) != json.dumps(b[name].get(key))]
        if differ:
            wrong.append('%s: differs in %s' % (name, ', '.join(differ)))
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
