"""The digits are those of scikit-learn, normalised."""

import torch

from systems.data.digits import open_digits


def test_digits() -> None:
    data = open_digits()
    assert (data.kind, data.classes) == ("digits (1,797 real images, scikit-learn)", 10)
    assert (len(data.train), len(data.test)) == (1437, 360)
    images, labels = data.train.batch(range(1437))
    assert (images.shape, images.dtype) == ((1437, 1, 8, 8), torch.float32)
    assert (labels.dtype, sorted(set(labels.tolist()))) == (torch.int64, list(range(10)))
    assert abs(images.mean()) < 1e-5
    assert abs(images.std() - 1) < 1e-5
    assert set(data.test.batch(range(360))[1].tolist()) == set(range(10))
