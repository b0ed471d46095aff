import numpy as np  # (what a user's file begins with
from hyperopt import (hp,
                      fmin)
my_space = {
    'a': hp.uniform('a', -1, 1), "b": hyperopt.hp.quniform(label='b', low=0, high=10, q=2.5),
    'c': loguniform('c', np.log(1e-3), high=np.log(10)), 'd': hp.qloguniform(q=3, high=5, low=0, label='d'),
    'e': hp.normal('e', 1, 2), 'f': hp.qnormal('f', mu=-1, sigma=4, q=0.5), # comment } ] )
    'g': hp.lognormal('g', 0, .5), 'h': hp.qlognormal('h', 1, 0.75, 1),
    'i': hp.uniformint('i', -2, 3), 'j': hp.randint('j', 6), 'k': randint('k', -3, 4),
    'l': hp.randint('l', upper=3), 'l2': hp.randint('l2', low=2, high=9),
    'm': hp.choice('m', [
        {'kind': 'x', 'deep': hp.choice('deep', (1, [hp.uniform('deeper', 0, 1), 'it\'s'], ()))},
        ('y', hp.pchoice('n', [(0.25, None), [0.5, hp.normal('o', 0, 1)], (.25, {'z': True,},),])),
        dict(kind='w', size=2 ** 5, u=hp.pchoice('p', p_options=[(1, 'only')])),
    ]),
    'q': hp.choice(label='q', options=[-1, 0.5]), 'r': [1, 2.0, 'caf\u00e9', r'\d', None, True, (3,)],
}
