space = {
    'lr_rate_mult': hp.loguniform('lr_rate_mult', -0.5, 0.5),
    'l2_weight_reg_mult': hp.loguniform('l2_weight_reg_mult', -1.3, 1.3),
    'batch_size': hp.quniform('batch_size', 100, 700, 5),
    'optimizer': hp.choice('optimizer', ['Adam', 'Nadam', 'RMSprop']),
    'coarse_labels_weight': hp.uniform('coarse_labels_weight', 0.01, 0.8),
    'conv_dropout_drop_proba': hp.uniform('conv_dropout_proba', 0.0, 0.35),
    'fc_dropout_drop_proba': hp.uniform('fc_dropout_proba', 0.0, 0.6),
    'use_BN': hp.choice('use_BN', [False, True]),
    'first_conv': hp.choice('first_conv', [None, hp.choice('first_conv_size', [3, 4])]),
    'residual': hp.choice('residual', [None, hp.quniform('residual_units', 1 - 0.499, 4 + 0.499, 1)]),
    'conv_hiddn_units_mult': hp.loguniform('conv_hiddn_units_mult', -0.6, 0.6),
    'nb_conv_pool_layers': hp.choice('nb_conv_pool_layers', [2, 3]),
    'pooling_type': hp.choice('pooling_type', ['max', 'avg', 'all_conv', 'inception']),
    'conv_kernel_size': hp.choice('conv_kernel_size', [2, 3]),
    'fc_units_1_mult': hp.loguniform('fc_units_1_mult', -0.6, 0.6),
    'one_more_fc': hp.choice('one_more_fc', [None, hp.loguniform('fc_units_2_mult', -0.6, 0.6)]),
    'activation': hp.choice('activation', ['relu', 'elu'])
}
