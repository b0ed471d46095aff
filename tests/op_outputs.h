/* op_outputs.h - the maps that an operation makes, of those that op_maps names; absent ones have at NULL. */
#ifndef OP_OUTPUTS_H
#define OP_OUTPUTS_H
#include "../layers.h"

static inline int op_outputs(const struct op *op, const struct map *maps[2]) {
    int n = 0;
    switch (op->kind) {
        case OP_BATCH: maps[n++] = &op->batch.out; break;
        case OP_CONV: maps[n++] = &op->conv.out, maps[n++] = &op->conv.dropped; break;
        case OP_APPLY: maps[n++] = &op->apply.out, maps[n++] = &op->apply.dropped; break;
        case OP_LOSS: maps[n++] = &op->loss.gradient; break;
        case OP_CONV_DATA: maps[n++] = &op->conv_data.gradient, maps[n++] = &op->conv_data.branch; break;
        case OP_APPLY_GRADIENT: maps[n++] = &op->apply_gradient.gradient, maps[n++] = &op->apply_gradient.branch; break;
        default: break;
    }
    return n;
}
#endif
