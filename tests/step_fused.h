/* step_fused.h - what each fusion saves of a step: the bytes and kernels that it would take besides if one thing that
 * rides along in another's kernel had a kernel of its own, which reads what it needs and writes what it makes. From the
 * shapes, as step_cost.h counts maps: each map once for each kernel that touches it. The fusions are independent of one
 * another: what several save is the sum. Dense layers are left out: their products are cuBLAS's, and their endings and
 * biases' gradients kernels of their own. For bench.c. */
#ifndef STEP_FUSED_H
#define STEP_FUSED_H
#include "step_cost.h"

enum fusion {
    FUSED_ENDING,
    FUSED_STATISTICS,
    FUSED_DROPOUT,
    FUSED_POOL,
    FUSED_SUM,
    FUSED_PAIR,
    FUSED_LINKS,
    FUSED_SLOPE,
    FUSED_BIAS,
    FUSED_L2,
    FUSIONS
};
static const char *const fusions[FUSIONS] = {
    "bias and activation, in the convolution's ending",
    "sums of a normalisation, in the ending of what makes its map or gradient",
    "dropout and its gradient, where the map or gradient is made",
    "pool, in the normalisation's pass",
    "residual sums and those of gradients, in the ending",
    "a residual unit's two convolutions in one kernel",
    "two normalisations in a row as one",
    "the activation's gradient, in the ending of what makes the map's",
    "a bias's gradient, from the weight gradient's tiles",
    "L2: penalty and gradient, in the optimiser's pass",
};
struct saved {
    double maps; /* bytes */
    int kernels;
};

static void save(struct saved s[FUSIONS], enum fusion f, double bytes) {
    s[f].maps += bytes;
    s[f].kernels++;
}

/* The gradient of a map, `gradient` bytes: times act', and a second time for the branch of a residual sum. */
static void save_slopes(struct saved s[FUSIONS], enum activation act, double gradient, const struct map *branch) {
    if (act != ACT_LINEAR) save(s, FUSED_SLOPE, 2 * gradient); /* read again, written again */
    if (branch->at != NULL) save(s, FUSED_SLOPE, gradient);
}

/* Adds what the i-th operation saves. */
static void saved_by(const struct program *program, int i, int n, enum making making, struct saved s[FUSIONS]) {
    const struct op *const op = &program->ops[i];
    struct window w;
    switch (op->kind) {
        case OP_CONV: {
            const struct op_conv *o = &op->conv;
            if (o->in.h == 1) break;
            const double out = bytes_of(o->out.at != NULL ? &o->out : &o->dropped, n);
            save(s, FUSED_ENDING, 2 * out);
            if (o->bn != NULL) save(s, FUSED_STATISTICS, out);
            if (o->dropped.at != NULL) save(s, FUSED_DROPOUT, o->out.at != NULL ? out : 2 * out);
            if (o->add.at != NULL) save(s, FUSED_SUM, 2 * out);
            if (making >= IN_PAIRS && i + 1 < program->n_ops && is_pair(&w, op, op + 1, n, making))
                save(s, FUSED_PAIR, out);
            break;
        }
        case OP_APPLY: {
            const struct op_apply *o = &op->apply;
            const double in = bytes_of(&o->in, n), out = bytes_of(o->out.at != NULL ? &o->out : &o->dropped, n);
            if (o->bn != NULL && o->pool != POOL_NONE) save(s, FUSED_POOL, 2 * in);
            if (o->dropped.at != NULL) save(s, FUSED_DROPOUT, o->out.at != NULL ? out : 2 * out);
            if (o->bn != NULL && o->bn->links == 2) { /* its own sums, and its own pass */
                save(s, FUSED_LINKS, in);
                save(s, FUSED_LINKS, 2 * in);
            }
            break;
        }
        case OP_CONV_DATA: {
            const struct op_conv_data *o = &op->conv_data;
            if (o->out_gradient.h == 1) break;
            const double gradient = bytes_of(&o->gradient, n);
            if (o->drop.threshold > 0) save(s, FUSED_DROPOUT, 2 * gradient);
            if (o->add.at != NULL) save(s, FUSED_SUM, 2 * gradient);
            save_slopes(s, o->act, gradient, &o->branch);
            if (o->bn != NULL) save(s, FUSED_STATISTICS, gradient); /* bn_x is read here or there */
            if (making >= IN_PAIRS && i + 1 < program->n_ops && is_pair(&w, op, op + 1, n, making))
                save(s, FUSED_PAIR, 2 * gradient);
            break;
        }
        case OP_APPLY_GRADIENT: {
            const struct op_apply_gradient *o = &op->apply_gradient;
            const double gradient = bytes_of(&o->gradient, n);
            if (o->bn != NULL && o->pool != POOL_NONE) save(s, FUSED_POOL, 2 * gradient);
            save_slopes(s, o->act, gradient, &o->branch);
            if (o->bn != NULL && o->bn->links == 2) {
                save(s, FUSED_LINKS, 2 * gradient);
                save(s, FUSED_LINKS, 3 * gradient);
            }
            break;
        }
        case OP_CONV_WEIGHT:
            if (op->conv_weight.bias != LAYERS_NONE && op->conv_weight.in.h > 1)
                save(s, FUSED_BIAS, bytes_of(&op->conv_weight.out_gradient, n));
            break;
        case OP_OPTIMISE:
            save(s, FUSED_L2, 4.0 * (double)program->parameters->n_decayed);
            save(s, FUSED_L2, 12.0 * (double)program->parameters->n_decayed);
            break;
        case OP_BATCH:
        case OP_BN:
        case OP_LOSS:
        case OP_SUMS:
        case OP_BN_GRADIENT:
        case OP_NEXT:
        case OP_PENALTY: break;
    }
}
#endif
