{'b': scope.int(hp.quniform('b', 100, 450, 5)), 'c': int(hp.choice('c', [7.5, hp.uniform('d', -1, 9), 2])), 'l': int(2.9)}
