/* config.h - a network's configuration: the dictionary that a space draws, read into plain numbers. */
#ifndef CONFIG_H
#define CONFIG_H
#include "layers.h"
#include "space.h"

enum { CONFIG_BLOCKS_MOST = 5 }; /* an image of 32 x 32 can be halved so often */

enum pooling { POOLING_MAX, POOLING_AVG, POOLING_ALL_CONV, POOLING_INCEPTION };

struct net_config {
    double lr_rate_mult, l2_weight_reg_mult, coarse_labels_weight, conv_dropout, fc_dropout;
    double conv_hiddn_units_mult, fc_units_1_mult, one_more_fc; /* one_more_fc 0: none */
    int batch_size, use_bn, first_conv, residual;               /* first_conv, residual 0: none */
    int residual_start, nb_conv_pool_layers, conv_kernel, res_kernel, softmax;
    enum optimiser optimizer;
    enum pooling pooling;
    enum activation activation;
};

/* Reads a configuration, the dictionary of SEED.md. ERROR_USER: a missing, unknown or impossible key, with its place.
 * `file` names it in messages. */
int config_read(struct net_config *, const struct value *, const char *file, struct error *);
/* The same from a file: a configuration, as JSON or Python, or a result file. *dict is the configuration in *doc, which
 * document_free releases, after an error too. */
int config_file(const char *path, struct document *doc, const struct value **dict, struct net_config *, struct error *);
/* Does config_read accept whatever the space draws? Tries each option and each bound (a distribution without bounds at
 * its median), so that a search does not find a mistake hours later. */
int config_check_space(const struct space *, const char *file, struct error *);
/* Multiplies the widths of the convolution blocks and of the dense layers (none falls below 1). */
void config_scale(struct net_config *, double width);
#endif
