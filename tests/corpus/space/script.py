#!/usr/bin/env python
"""It's a script: space = hp.choice( in its
space = hp.normal('no', 0, 1)
title."""
from hyperopt import (hp,  # )
    tpe)
import math; import os
__author__ = ('me, '
    'you')
low, high = 1, 2
WIDTH = 2 ** 3 \
    - 1  # seven
SIZES = list(range(100, 121, 10)); x = 1
rate = hp.loguniform('rate', -WIDTH, WIDTH)
WIDTHS = [(0.25, WIDTH), (0.75, {'more': hp.uniform('more', 0, WIDTH / 2)})]
def objective(args):
    WIDTH = args['x']
    space['y'] = "'}"
    return -WIDTH
if True:
    space = {
        'rate': rate, 'size': hp.choice('size', SIZES), 'width': hp.pchoice('width', WIDTHS),
        'down': hp.choice('down', range(3, 0, -1)), 'same': [WIDTH, WIDTH]
    }
    other = {'a': hp.normal('other', 0, 1)}
best = fmin(objective, space=space, algo=tpe.suggest)
print(best['x'], f'{best}')
