"""The original's network in Keras, for the scripts that hold parzen against it.

Network, loss and batch normalisation are tf_keras's own (Keras 2 on TensorFlow), in float32 or float64. The update
rules are written out here, as Keras 2.0.6 had them: later versions moved Adam's epsilon and changed Nadam's schedule.
Weights and batches travel as safetensors files (float32), which this module also reads and writes. Layers and tensors
have parzen's names; a layer's recorded output is what parzen records under that name (a pool, where it follows a
normalisation or the residual units, is recorded with it).

Environment: TF_USE_LEGACY_KERAS=1 and CUDA_VISIBLE_DEVICES= as `make conformance` sets them; importing sets them too."""
import json
import math
import os
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

FINE, COARSE = 100, 20
LOGITS_AT = 104  # parzen's logits: the coarse head's columns stand behind the fine head's, rounded up to 8
NEAR = 1e-5  # two sigmoids that differ by less may tie in float32
METRICS = ("loss", "fine loss", "coarse loss", "fine accuracy", "coarse accuracy")


# ---- safetensors ----

def write_tensors(path, tensors):
    """{name: array} into a file: 8 bytes of header length, the header as JSON, the data."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + 4 * array.size]}
        offset += 4 * array.size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())


def read_tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    out = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            out[name] = np.frombuffer(data[start + begin:start + end], "<f4").reshape(entry["shape"])
    return out


def run_probe(probe, mode, space, weights, batches, folder, threads=2):
    """parzen's side: what net_probe writes (see tests/net_probe.c)."""
    paths = [os.path.join(folder, name) for name in ("config.json", "weights", "batches", "out")]
    with open(paths[0], "w") as file:
        json.dump(space, file)
    write_tensors(paths[1], weights)
    write_tensors(paths[2], batches)
    subprocess.run([probe, mode, *paths, str(threads)], check=True)
    return read_tensors(paths[3])


# ---- the network ----

class SeedNet:
    """The network of a configuration (the "space" of a result file), and its training step.

    outputs: {layer: tensor}, what parzen records; variables: {tensor name: variable}."""

    def __init__(self, space, dtype="float32", dropout=True, fused=False):
        self.space, self.dtype, self.fused = space, dtype, fused
        self.l2 = 0.0007 * space["l2_weight_reg_mult"]
        self.p_conv = space["conv_dropout_drop_proba"] if dropout else 0.0
        self.p_fc = space["fc_dropout_drop_proba"] if dropout else 0.0
        self.outputs = {}
        keras.backend.set_floatx(dtype)
        keras.backend.clear_session()
        image = keras.Input((32, 32, 3))
        logits = self.build(image)
        heads = [layers.Activation("sigmoid")(z) for z in logits]
        pad = layers.Lambda(lambda z: tf.pad(z, [[0, 0], [0, LOGITS_AT - FINE]]))(logits[0])
        self.outputs["logits"] = layers.Concatenate()([pad, logits[1]])
        self.model = keras.Model(image, [heads, self.outputs])
        keras.backend.set_floatx("float32")
        self.variables = {f"{layer.name}.{what}": getattr(layer, what)
                          for layer in self.model.layers
                          for what in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
                          if hasattr(layer, what)}
        assert len(self.variables) == len(self.model.weights)
        self.trainable = [name for name in self.variables if ".moving_" not in name]
        self.optimiser = OPTIMISERS[space["optimizer"]](0.001 * space["lr_rate_mult"],
                                                        [self.variables[name] for name in self.trainable])
        self.compiled_step = tf.function(self.graph_step)
        self.compiled_judge = tf.function(self.graph_judge)

    def build(self, x):
        s = self.space
        if s["first_conv"] is not None:
            x = self.conv("first_conv", x, 16, int(s["first_conv"]))
        n = int(40 * s["conv_hiddn_units_mult"])
        for i in range(int(s["nb_conv_pool_layers"])):
            x = self.block(f"block{i + 1}", x, n, i)
            n *= 2
        x = layers.Flatten()(x)
        x = self.dense("dense1", x, int(1000 * s["fc_units_1_mult"]))
        if s["one_more_fc"] is not None:
            x = self.dense("dense2", x, int(750 * s["one_more_fc"]))
        return [layers.Dense(units, kernel_regularizer=keras.regularizers.l2(self.l2), name=name)(x)
                for name, units in (("fine", FINE), ("coarse", COARSE))]

    def block(self, name, x, n, i):
        s = self.space
        simple = {"max": layers.MaxPooling2D, "avg": layers.AveragePooling2D}.get(s["pooling_type"])
        x = self.conv(f"{name}.conv", x, n, int(round(s["conv_kernel_size"])))
        recorded = f"{name}.pool"
        if s["use_BN"]:
            recorded = f"{name}.bn"
            x = self.bn(recorded, x)
        if s["residual"] is not None and i >= int(round(s.get("conv_pool_res_start_idx", 0))):
            for u in range(1, int(round(s["residual"])) + 1):
                linear = self.conv(f"{name}.res{u}.linear", x, n, 1, activation=None)
                branch = self.conv(f"{name}.res{u}.conv", layers.Dropout(self.p_conv)(x), n,
                                   int(round(s.get("res_conv_kernel_size", 3))))
                x = self.outputs[f"{name}.res{u}.linear"] = layers.Add()([linear, branch])
                if s["use_BN"]:
                    x = self.bn(f"{name}.res{u}.bn", x)
            if s["use_BN"]:
                del self.outputs[f"{name}.res{u}.bn"]  # parzen passes over both of two normalisations at once
                recorded = f"{name}.res.bn"
            else:
                x = self.bn(f"{name}.res.bn1", x)
                del self.outputs[f"{name}.res.bn1"]
                recorded = f"{name}.res.bn2"
            x = self.bn(recorded, x)
        if simple is not None:
            x = self.outputs[recorded] = simple(2)(x)
        elif s["pooling_type"] == "all_conv":
            x = self.reduce(f"{name}.reduce", f"{name}.reduce.bn", x, n)
        else:
            a, m = int(0.33 * n + 1), int(0.4 * n + 1)
            first = self.reduce(f"{name}.branch1.reduce", f"{name}.branch1.bn", x, m)
            second = self.conv(f"{name}.branch2.conv1", x, a, 1)
            second = self.conv(f"{name}.branch2.conv2", second, m, 3)
            second = self.reduce(f"{name}.branch2.reduce", f"{name}.branch2.bn", second, m)
            third = self.conv(f"{name}.branch3.conv", x, m, 1)
            third = self.outputs[f"{name}.branch3.pool"] = layers.MaxPooling2D(3, 2, "same")(third)
            x = layers.Concatenate()([first, second, third])
        return layers.Dropout(self.p_conv)(x)

    def conv(self, name, x, filters, k, stride=1, activation="of the space"):
        if activation is not None:
            activation = self.space["activation"]
        x = layers.Conv2D(filters, k, strides=stride, padding="same", activation=activation,
                          kernel_regularizer=keras.regularizers.l2(self.l2), name=name)(x)
        self.outputs[name] = x
        return x

    def bn(self, name, x):
        # Not fused, but for speed: the fused kind averages the unbiased variance, Keras 2.0.6 the biased one.
        x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3, fused=self.fused, name=name)(x)
        self.outputs[name] = x
        return x

    def reduce(self, name, bn_name, x, filters):
        x = self.conv(name, x, filters, 3, stride=2, activation=None)
        return self.bn(bn_name, x) if self.space["use_BN"] else x

    def dense(self, name, x, units):
        x = layers.Dense(units, activation=self.space["activation"], kernel_regularizer=keras.regularizers.l2(self.l2),
                         name=name)(x)
        self.outputs[name] = x
        return layers.Dropout(self.p_fc)(x)

    # ---- weights ----

    def first_weights(self, rng, varied=False):
        """Keras's first weights out of numpy's generator, as {name: float32 array}. varied: what would be all 0 or
        all 1 (biases, gammas, moving averages ...) is drawn as well, so that each of them matters."""
        out = {}
        for name, variable in self.variables.items():
            shape, what = tuple(variable.shape), name.rsplit(".", 1)[1]
            if what == "kernel":
                field = math.prod(shape[:-2])
                limit = math.sqrt(6 / (field * (shape[-2] + shape[-1])))
                value = rng.uniform(-limit, limit, shape)
            elif what in ("gamma", "moving_variance"):
                value = rng.uniform(0.7, 1.3, shape) if varied else np.ones(shape)
            else:
                value = rng.normal(0, 0.1, shape) if varied else np.zeros(shape)
            out[name] = value.astype("float32")
        return out

    def load(self, weights):
        """Sets the weights, and the optimiser to its start."""
        self.optimiser.reset()
        for name, variable in self.variables.items():
            variable.assign(weights[name])

    def read(self):
        return {name: variable.numpy() for name, variable in self.variables.items()}

    # ---- a step ----

    def losses(self, x, fine, coarse, training):
        """The five numbers of METRICS and, for each head, its accuracy with near ties lost and won; the part of the
        loss without L2; its L2 part; every layer's output."""
        heads, outputs = self.model(x, training=training)
        numbers, bounds = [], []
        for p, labels, classes in ((heads[0], fine, FINE), (heads[1], coarse, COARSE)):
            # Later Kerases remember a sigmoid's logits and would take their softmax; 2.0.6 normalises p. The identity
            # makes them forget.
            loss = keras.losses.categorical_crossentropy(tf.one_hot(labels, classes, dtype=self.dtype), tf.identity(p))
            hits = tf.cast(tf.argmax(p, axis=1) == labels, self.dtype)
            numbers += [tf.reduce_mean(loss), tf.reduce_mean(hits)]
            mine = tf.one_hot(labels, classes, dtype=self.dtype)
            lead = tf.reduce_sum(p * mine, axis=1) - tf.reduce_max(p - 2 * mine, axis=1)
            bounds += [tf.reduce_mean(tf.cast(lead > margin, self.dtype)) for margin in (NEAR, -NEAR)]
        data = numbers[0] + tf.cast(self.space["coarse_labels_weight"], self.dtype) * numbers[2]
        l2 = tf.add_n(self.model.losses)
        return [data + l2, numbers[0], numbers[2], numbers[1], numbers[3]] + bounds, data, l2, outputs

    def graph_step(self, x, fine, coarse, scalars):
        variables = [self.variables[name] for name in self.trainable]
        with tf.GradientTape(persistent=True) as tape:
            metrics, data, l2, outputs = self.losses(x, fine, coarse, True)
        gradients = tape.gradient(data, variables)
        of_l2 = tape.gradient(l2, variables)
        self.optimiser.update([g if r is None else g + r for g, r in zip(gradients, of_l2)], scalars)
        return metrics, outputs, gradients

    def train_only(self, x, fine, coarse, scalars):
        """The same step for timing: returns the loss alone, so that nothing is kept or computed for the comparison."""
        variables = [self.variables[name] for name in self.trainable]
        with tf.GradientTape() as tape:
            metrics, _, _, _ = self.losses(x, fine, coarse, True)
        self.optimiser.update(tape.gradient(metrics[0], variables), scalars)
        return metrics[0]

    def graph_judge(self, x, fine, coarse):
        metrics, _, _, outputs = self.losses(x, fine, coarse, False)
        return metrics, outputs

    def inputs(self, images, rows):
        x = images["images"][rows].astype(self.dtype) / np.asarray(255, self.dtype) - np.asarray(0.5, self.dtype)
        return (tf.constant(x), tf.constant(images["fine"][rows].astype("int64")),
                tf.constant(images["coarse"][rows].astype("int64")))

    def step(self, images, rows):
        """A training step. Returns the metrics (of before it), the layers' outputs and the gradients without L2."""
        scalars = [tf.constant(x, self.dtype) for x in self.optimiser.scalars()]
        metrics, outputs, gradients = self.compiled_step(*self.inputs(images, rows), scalars)
        return [float(m) for m in metrics], outputs, dict(zip(self.trainable, gradients))

    def judge(self, images, batch):
        """The metrics over all the images, through the moving averages, and the layers' outputs on the last batch."""
        total, n = 0, len(images["images"])
        for first in range(0, n, batch):
            rows = np.arange(first, min(first + batch, n))
            metrics, outputs = self.compiled_judge(*self.inputs(images, rows))
            total += np.array([float(m) for m in metrics]) * len(rows) / n
        return total, outputs


def images_of(batches, name):
    """The set `name` of a batches file, as SeedNet takes it."""
    return {what: batches[f"{name}.{what}"] for what in ("images", "fine", "coarse")}


# ---- the update rules of Keras 2.0.6 ----

class Optimiser:
    """scalars(): the numbers of the next step, made in double; update(): the rule itself, in the network's type."""
    moments = 2

    def __init__(self, lr, variables):
        self.lr, self.variables = lr, variables
        self.slots = [[tf.Variable(tf.zeros_like(v), trainable=False) for v in variables] for _ in range(self.moments)]
        self.reset()

    def reset(self):
        self.t = 0
        self.schedule = 1.0  # Nadam's product of all mu so far
        for slot in sum(self.slots, []):
            slot.assign(tf.zeros_like(slot))

    def update(self, gradients, scalars):
        for i, (w, g) in enumerate(zip(self.variables, gradients)):
            self.rule(w, g, [slot[i] for slot in self.slots], scalars)


class Adam(Optimiser):
    def scalars(self):
        self.t += 1
        return [self.lr * math.sqrt(1 - 0.999 ** self.t) / (1 - 0.9 ** self.t)]

    @staticmethod
    def rule(w, g, slots, scalars):
        m, v = slots
        m.assign(0.9 * m + 0.1 * g)
        v.assign(0.999 * v + 0.001 * tf.square(g))
        w.assign_sub(scalars[0] * m / (tf.sqrt(v) + 1e-8))


class RMSprop(Optimiser):
    moments = 1

    def scalars(self):
        self.t += 1
        return [self.lr]

    @staticmethod
    def rule(w, g, slots, scalars):
        a, = slots
        a.assign(0.9 * a + 0.1 * tf.square(g))
        w.assign_sub(scalars[0] * g / (tf.sqrt(a) + 1e-8))


class Nadam(Optimiser):
    def scalars(self):
        self.t += 1
        mu, following = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in (self.t, self.t + 1))
        self.schedule *= mu
        return [self.lr, mu, following, 1 - self.schedule, 1 - self.schedule * following, 1 - 0.999 ** self.t]

    @staticmethod
    def rule(w, g, slots, scalars):
        m, v = slots
        lr, mu, following, rest, rest_following, rest_v = scalars
        m.assign(0.9 * m + 0.1 * g)
        v.assign(0.999 * v + 0.001 * tf.square(g))
        bar = (1 - mu) * g / rest + following * m / rest_following
        w.assign_sub(lr * bar / (tf.sqrt(v / rest_v) + 1e-8))


OPTIMISERS = {"Adam": Adam, "RMSprop": RMSprop, "Nadam": Nadam}
