hp.pchoice(label='p', p_options=[(0.5, hp.choice('c', (1, (2,), dict(k=hp.randint('r', upper=3))))), (0.5, float('inf'))])
