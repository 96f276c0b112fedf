"""What the page asks of the model, without a page."""

from __future__ import annotations

import json
import shutil
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from purrception.generation.image_processor import ImageProcessor
from purrception.studio.pictures import colour_scale, editor_value, open_upload, painted_pixels
from purrception.studio.session import MAX_KEPT, StoppedError, Studio, display, row_of_each_class
from purrception.studio.trajectory import entropy_curves, likeliest_alternatives, record_trajectory
from purrception.tokens import TokenDataset
from purrception.utils.errors import InputError


@pytest.fixture(scope="module")
def own(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    folder = tmp_path_factory.mktemp("session") / "tiny"
    shutil.copytree(tiny_run, folder)
    return Studio(str(folder), torch.device("cpu"))


def silent(share: float) -> None:
    """Nobody looks."""


def test_a_generation_comes_with_its_manifest_and_the_command_that_repeats_it(own: Studio) -> None:
    shares: list[float] = []
    made = own.generate([3, 4], own.defaults, 5, "me", shares.append)
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    with zipfile.ZipFile(made.download) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert {"00000.png", "00001.png", "grid.png"} <= set(archive.namelist())
    assert manifest["command"] == made.command
    assert made.command.endswith("--classes 3 4 --seed 5")  # and nothing that is the run's own


def test_downloads_do_not_pile_up(own: Studio) -> None:
    for _ in range(MAX_KEPT + 3):
        folder = own.next_folder("edits")
    assert len(list((own.folder / "edits").iterdir())) == MAX_KEPT
    assert folder.name == f"{MAX_KEPT + 2:03d}"


def test_work_stops_when_its_visitor_says_so_and_another_goes_on(own: Studio) -> None:
    started = threading.Event()

    def report(share: float) -> None:
        started.set()

    failures: list[BaseException] = []

    def long() -> None:
        try:
            own.generate([0] * 64, replace(own.defaults, num_inference_steps=1000), 0, "slow", report)
        except StoppedError as stopped:
            failures.append(stopped)

    thread = threading.Thread(target=long)
    thread.start()
    assert started.wait(60)
    own.stop("somebody else")
    own.stop("slow")
    thread.join(60)
    assert not thread.is_alive()
    assert len(failures) == 1
    assert own.generate([1], own.defaults, 0, "quick", silent).output.indices.shape == (1, 4, 4)


def test_a_stop_reaches_all_of_a_visitors_work_and_what_waits_does_not_begin(own: Studio) -> None:
    under_way, ended = threading.Event(), list[str]()

    def work(session: str, report: Any) -> None:
        try:
            own.generate([0] * 64, replace(own.defaults, num_inference_steps=1000), 0, session, report)
        except StoppedError:
            ended.append(session)

    begun: list[float] = []
    threads = [threading.Thread(target=work, args=("first", lambda share: under_way.set()))]
    threads += [threading.Thread(target=work, args=("waiting", begun.append)) for _ in range(2)]
    threads[0].start()
    assert under_way.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(own._stops.get("waiting", ())) < 2:
        time.sleep(0.01)
    own.stop("waiting")
    own.leave("first")
    for thread in threads:
        thread.join(60)
    assert sorted(ended) == ["first", "waiting", "waiting"]
    assert not begun
    assert not own._stops


def test_too_much_is_refused(own: Studio) -> None:
    for labels, steps in (([0] * 65, 3), ([], 3), ([0], 1001)):
        with pytest.raises(InputError, match="1 to 64 images in at most 1000 steps"):
            own.generate(labels, replace(own.defaults, num_inference_steps=steps), 0, "me", silent)
    with pytest.raises(InputError, match="at most 100 steps are kept"):
        record_trajectory(own, 3, replace(own.defaults, num_inference_steps=101), 0, "me", silent)


def test_every_class_has_a_thumbnail_of_a_training_image(own: Studio) -> None:
    pictures = own.thumbnails()
    assert [name for _, name in pictures] == own.class_names
    assert all(picture.size == (64, 64) for picture, _ in pictures)


class SortedRows:
    """The rows of a data set whose images lie in the order of their classes, 1000 each; one class has none."""

    def __len__(self) -> int:
        return 5000

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = numbers // 1000
        return numbers[:, None, None], labels + (labels > 2)


def test_the_image_of_a_class_is_of_that_class() -> None:
    """Also where the first rows are all of one class, as in a folder of pictures."""
    data = SortedRows()
    rows = row_of_each_class(cast(TokenDataset, data), 6)
    assert {*rows} == {0, 1, 2, 4, 5}
    assert data.rows(np.array([*rows.values()]))[1].tolist() == [*rows]


def test_a_class_without_training_images_shows_a_generated_one(
    own: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = own.thumbnails()
    monkeypatch.setattr(
        "purrception.studio.session.row_of_each_class",
        lambda data, count: {label: row for label, row in row_of_each_class(data, count).items() if label != 1},
    )
    few = own.thumbnails()
    assert [name for _, name in few] == own.class_names
    made = own.pipeline.sample([1], replace(own.defaults, num_inference_steps=8)).images[0]
    wanted = [display(made, 64) if label == 1 else picture for label, (picture, _) in enumerate(whole)]
    assert [picture.tobytes() for picture, _ in few] == [picture.tobytes() for picture in wanted]


@pytest.mark.parametrize(("solver", "count"), [("euler", 4), ("heun", 7)])
def test_a_trajectory_ends_where_sampling_does(own: Studio, solver: str, count: int) -> None:
    settings = replace(own.defaults, num_inference_steps=4, solver=solver)
    trajectory = record_trajectory(own, 3, settings, 2, "me", silent)
    assert len(trajectory.moments) == count
    assert [moment.t for moment in trajectory.moments] == sorted(moment.t for moment in trajectory.moments)
    assert torch.equal(trajectory.indices, own.pipeline.sample([3], settings, 2).indices)
    plain, overlaid = (np.asarray(trajectory.picture(0, overlay)) for overlay in (False, True))
    assert plain.shape == overlaid.shape == (384, 384, 3)
    assert not np.array_equal(plain, overlaid)
    assert entropy_curves(trajectory, 1).count("<path") == 3
    changed = (np.asarray(trajectory.picture(0, overlay=False, marked=(2, 1))) != plain).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min() // 96, rows.max() // 96, columns.min() // 96, columns.max() // 96) == (2, 2, 1, 1)
    assert not changed[2 * 96 + 8 : 3 * 96 - 8, 96 + 8 : 2 * 96 - 8].any()  # a frame


def test_a_mean_that_is_a_code_decodes_as_the_code(own: Studio) -> None:
    indices = torch.randint(16, (2, 4, 4))
    means = own.pipeline.transformer.embed(indices)
    for image, array in zip(
        own.pipeline.decode_means(means), own.pipeline.tokenizer.decode_images(indices), strict=True
    ):
        assert np.abs(np.asarray(image).astype(int) - array[..., 0].astype(int)).max() <= 1


def test_alternatives_are_the_likeliest_codes_and_lead_to_images_that_hold_them(own: Studio) -> None:
    settings = replace(own.defaults, num_inference_steps=4)
    trajectory = record_trajectory(own, 3, settings, 2, "me", silent)
    found = likeliest_alternatives(own, trajectory, 1, (2, 1), "me", silent)
    probabilities = [one.probability for one in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1 + 1e-6
    assert len({one.code for one in found}) == 6
    natural = int(trajectory.indices[0, 2, 1])
    same = [one for one in found if one.code == natural]
    assert all(one.image.size == trajectory.image.size for one in found)
    for one in same:  # at the end held exactly; before, nearly the trajectory without forcing
        assert one.probability > 0


def test_alternatives_of_no_probability_are_left_out(own: Studio) -> None:
    cold = replace(own.defaults, num_inference_steps=4, temperature=0.01)
    trajectory = record_trajectory(own, 3, cold, 2, "me", silent)
    found = likeliest_alternatives(own, trajectory, 3, (2, 1), "me", silent)
    assert 1 <= len(found) < 6
    assert all(f"{one.probability:.1%}" != "0.0%" for one in found)


def test_the_scale_of_a_map_names_its_brightest_entropy() -> None:
    assert "2.50 nats" in colour_scale(2.5)


def test_what_is_painted_is_found_in_pixels_of_the_picture() -> None:
    picture = Image.new("L", (16, 16))
    value = editor_value(picture)
    layer = np.zeros((384, 384, 4), np.uint8)
    layer[24:72, 48:96] = 255  # two pixels of 24 each trajectory
    mask = painted_pixels({**value, "layers": [layer]}, picture)
    assert np.argwhere(mask).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    for nothing in (None, value, {**value, "layers": [np.zeros((384, 384, 4), np.uint8)]}):
        with pytest.raises(InputError, match="nothing is painted"):
            painted_pixels(nothing, picture)
    layer[:] = 0
    layer[0, 0] = 255
    with pytest.raises(InputError, match="smaller than a pixel"):
        painted_pixels({"layers": [layer]}, picture)


def test_only_what_was_uploaded_is_opened(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    (tmp_path / "uploads").mkdir()
    processor = ImageProcessor(16, 16, 1)
    with pytest.raises(InputError, match="not a path on this machine"):
        open_upload(str(tmp_path / "secret.png"), processor, tmp_path / "uploads")
    with pytest.raises(InputError, match="no picture was uploaded"):
        open_upload(None, processor, tmp_path / "uploads")
    shutil.copy(tmp_path / "secret.png", tmp_path / "uploads")
    assert open_upload(tmp_path / "uploads/secret.png", processor, tmp_path / "uploads").mode == "L"


@pytest.mark.parametrize(("size", "axis"), [((300, 100), 1), ((100, 300), 0)])
def test_a_picture_that_is_not_square_is_cropped_where_its_owner_says(size: tuple[int, int], axis: int) -> None:
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(ramp if axis else ramp[:, None], size[::-1]).copy())
    processor = ImageProcessor(20, 20, 1)
    means = [np.asarray(processor.preprocess(picture, position)).mean() for position in (0.0, 0.5, 1.0)]
    assert means == pytest.approx([255 / 6, 255 / 2, 255 * 5 / 6], abs=3)
    assert np.array_equal(processor.preprocess(picture), processor.preprocess(picture, 0.5))


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    assert display(Image.new("L", (16, 16)), 192).size == (192, 192)
    assert display(Image.new("RGB", (256, 256)), 192).size == (256, 256)
