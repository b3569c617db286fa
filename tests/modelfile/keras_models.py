"""Keras models as owners write them."""

import keras
from keras import layers


def perceptron():
    return keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Rescaling(1 / 16),
            layers.Flatten(),
            layers.Dense(16, activation="relu", kernel_regularizer="l2"),
            layers.Dropout(0.2, seed=3),
            layers.Dense(10, activation="softmax", kernel_initializer="he_normal"),
        ]
    )


def recurrent():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 8),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(5)),
            layers.GRU(3, recurrent_dropout=0.1),
            layers.Dense(2),
        ]
    )


def masked():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.LSTM(4, return_sequences=True)(x)
    return keras.Model(tokens, layers.Dense(2)(layers.LSTM(3)(x)))


def residual():
    start = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(start)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    for filters, strides in ((8, 1), (16, 2)):
        y = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
        y = layers.BatchNormalization(momentum=0.9)(y)
        y = layers.Activation("relu")(y)
        y = layers.Conv2D(filters, 3, padding="same")(y)
        y = layers.BatchNormalization()(y)
        short = x if strides == 1 else layers.Conv2D(filters, 1, strides=strides)(x)
        x = layers.ReLU()(layers.Add()([y, short]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(start, layers.Dense(10, activation="softmax")(x))


def transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16)(tokens)
    for _ in range(2):
        normal = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 8)(normal, normal, use_causal_mask=True)
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    return keras.Model(tokens, layers.Dense(50)(layers.LayerNormalization()(x)))


def attention_by_name():
    start = keras.Input((6, 4))
    other = layers.Dense(4)(start)
    attend = layers.MultiHeadAttention(2, 3)
    return keras.Model(start, attend(query=start, value=other, key=layers.Dense(5)(start)))


def shared():
    start = keras.Input((6,))
    twice = layers.Dense(6, name="twice")
    x = layers.Dense(6)(twice(start))
    return keras.Model(start, twice(x * 2.0 + 1.0))


def frozen():
    model = perceptron()
    model.layers[2].trainable = False
    return model


def normalised():
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Normalization(mean=[1.0, 2.0], variance=[1.0, 4.0]),
            layers.Dense(1, dtype="mixed_bfloat16"),
        ]
    )


MODELS = [
    *(perceptron, recurrent, masked, residual, transformer),
    *(attention_by_name, shared, frozen, normalised),
]
