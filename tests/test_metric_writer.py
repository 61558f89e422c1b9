"""Pictures in TensorBoard's events, read back."""

import pathlib
import struct

import cv2
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from mfg_jax.errors import UserError
from mfg_jax.metric_writer import MetricWriter


def read_events(directory: pathlib.Path) -> list[Event]:
    """All events of a directory: records of a length, its checksum, the event and its checksum."""
    events = []
    for path in sorted(directory.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return events


def test_a_picture_is_shown_as_it_was_drawn(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "drawn.png"), image)
    with MetricWriter(tmp_path) as writer:
        writer.write_image(7, "ranked_lists", tmp_path / "drawn.png")
        writer.write(7, {"loss": 2.0})
    values = [
        (event.step, value)
        for event in read_events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert [(step, value.tag) for step, value in values] == [(7, "ranked_lists"), (7, "loss")]
    shown = values[0][1].image
    assert (shown.height, shown.width) == image.shape[:2]
    encoded = np.frombuffer(shown.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR), image)


def test_a_missing_picture_is_named_and_processes_that_write_nothing_do_not_look_for_it(tmp_path):
    path = tmp_path / "missing.png"
    with MetricWriter(tmp_path) as writer, pytest.raises(UserError, match=r"missing\.png.* cannot be read"):
        writer.write_image(7, "ranked_lists", path)
    with MetricWriter(tmp_path / "other", active=False) as writer:
        writer.write_image(7, "ranked_lists", path)
    assert not (tmp_path / "other").exists()
