/* net.h - a configuration becomes a network: layers, shapes, buffers; a step; an epoch; its weights.
 *
 * The network is the one that SEED.md's users know (two-headed CNN: conv blocks with optional batch normalisation
 * and residual units, four kinds of pooling, one or two dense layers, a fine and a coarse head). net_build makes two
 * lists of operations (layers.h), one that trains on a batch and one that judges, and plans one block of device
 * memory in which maps whose lifetimes do not meet share their place. */
#ifndef NET_H
#define NET_H
#include "config.h"
#include "data.h"
#include "layers.h"

/* A set of images in a device's memory. */
struct net_images {
    int n, h, w, c;
    uint8_t *pixels, *fine, *coarse;
};
int net_images_load(struct net_images *, const struct images *, struct device *, struct error *);
void net_images_unload(struct net_images *, struct device *);

struct net_options {
    uint64_t seed; /* with trial: what the initial weights, batches, flips and masks are drawn from */
    uint32_t trial;
    int fine, coarse;        /* classes */
    int no_flip, no_dropout; /* for comparisons */
    int flip_test;           /* flip at test time too, as the original did */
    int keep;                /* every map keeps its own memory, so that net_map can read it after a step */
};

struct net_metrics {
    double loss; /* fine + coarse weight * coarse + L2, a mean over images */
    double fine_loss, coarse_loss, fine_accuracy, coarse_accuracy;
};

struct net; /* opaque */
/* train or judge may be NULL where the net will not train or not be judged; they must outlive the net. ERROR_USER:
 * an impossible shape; ERROR_TRIAL: no memory for it. */
int net_build(struct net **, const struct net_config *, const struct net_options *, struct device *,
              const struct net_images *train, const struct net_images *judge, struct error *);
void net_free(struct net *);

struct net_size {
    size_t parameters;    /* trainable */
    double multiply_adds; /* forward, one image */
    size_t map_bytes;     /* the planned block */
    size_t parameter_bytes;
    int ops; /* of a training step */
};
struct net_size net_get_size(const struct net *);

/* Called between steps; returns non-zero to stop. */
typedef int net_progress(void *context, int images_done, int images);
enum { NET_STOPPED = 100 };

/* One pass over the training images in the order of `epoch` (from 0), the last smaller batch included. Returns OK,
 * an error, or NET_STOPPED. metrics are means over the epoch, as Keras reports them: of each batch before its update.
 */
int net_train_epoch(struct net *, int epoch, struct net_metrics *, net_progress *, void *context, struct error *);
/* Loss and accuracy on the judge images, through the moving averages. */
int net_judge(struct net *, struct net_metrics *, net_progress *, void *context, struct error *);
/* One training step on images order[0..n) of the training set, n at most a batch, for tests: the optimiser's count
 * goes on, masks and flips are those of epoch 0, step 0. */
int net_train_step(struct net *, const uint32_t *order, int n, struct net_metrics *, struct error *);

/* ---- the net's tensors, by name, in logical shapes: "block1.conv.kernel" [k][k][in][out], ".bias" [out],
 * "block1.bn.gamma", ".beta", ".moving_mean", ".moving_variance", "dense1.kernel" [in][out] (in: h, w, channel
 * order), "fine.kernel", "coarse.kernel" ... ---- */
enum net_kind { NET_VALUE, NET_GRADIENT, NET_FIRST_MOMENT, NET_SECOND_MOMENT };
struct net_tensor {
    const char *name;
    int dims, shape[4];
    size_t n;   /* elements */
    int moving; /* a moving average: not trained */
};
int net_n_tensors(const struct net *);
struct net_tensor net_get_tensor(const struct net *, int i);
int net_read_tensor(struct net *, int i, enum net_kind, float *out, struct error *);
int net_write_tensor(struct net *, int i, enum net_kind, const float *in, struct error *);
/* Writes all values (and moving averages) as a weights file. metadata: key, value, ..., NULL, as tensors_write. */
int net_save(struct net *, const char *path, const char *const *metadata, struct error *);
/* Sets them from a weights file: every tensor of the net must be there with its shape. ERROR_USER if not. */
int net_load(struct net *, const char *path, struct error *);

/* All that training goes on from: values, moments, moving averages and the steps made, bit for bit, in a weights file
 * of its own kind. net_load_state gives a net of the same configuration what was saved; `meta`, if not NULL, gets the
 * file's metadata (to be released with tensors_free whatever is returned). ERROR_USER: another net's, or damaged. */
struct tensors;
int net_save_state(struct net *, const char *path, const char *const *metadata, struct error *);
int net_load_state(struct net *, const char *path, struct tensors *meta, struct error *);

/* ---- with `keep`: the output of every layer of the last training step (or of the last judged batch) ---- */
struct net_layer {
    const char *name;
    int h, w, c;
};
int net_n_layers(const struct net *, int training);
struct net_layer net_get_layer(const struct net *, int training, int i);
int net_read_layer(struct net *, int training, int i, int n, float *out, struct error *); /* [n][h][w][c] */
#endif
