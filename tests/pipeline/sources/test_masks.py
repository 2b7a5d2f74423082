"""Masks in files: found by relative name, and never taken for pictures themselves."""

import numpy as np
import pytest
from PIL import Image

from pipeline.sources import list_records
from pipeline.sources.masks import AUTO, Foreground, MaskCheck, attach_masks, foreground_of
from pipeline.sources.record import mask_name
from tests.pipeline.sources.support import jpeg, write_files


def listed(root, masks, **options):
    """(key, bytes of the mask) of each picture, the labels, and the description."""
    source = list_records(str(root), masks=masks, **options)
    attached, _ = attach_masks(source, masks)
    pairs = [(record.key, record.read()[1]) for record in attached.records]
    return pairs, source.label_names, source.description


def test_masks_are_found_by_relative_name(tmp_path):
    write_files(tmp_path / "images", {"x/a.JPEG": b"", "x/b.jpg": b"", "c.v2.png": b""})
    write_files(tmp_path / "masks", {"x/a.png": b"A", "c.v2.png": b"C", "b.png": b"other"})
    pairs, _, description = listed(tmp_path / "images", tmp_path / "masks")
    assert pairs == [("c.v2.png", b"C"), ("x/a.JPEG", b"A"), ("x/b.jpg", None)]
    assert "left out" not in description
    assert mask_name("x/a.JPEG") == "x/a.png"


def test_masks_that_fit_no_picture_are_refused_with_examples(tmp_path):
    write_files(tmp_path / "images", {"x/a.jpg": jpeg(), "x/b.jpg": jpeg()})
    write_files(tmp_path / "masks", {"a.png": b"", "b.png": b""})
    source = list_records(str(tmp_path / "images"))
    with pytest.raises(ValueError, match=r"looked for x/a\.png, x/b\.png .* found a\.png, b\.png"):
        attach_masks(source, tmp_path / "masks")
    with pytest.raises(ValueError, match="no such folder of masks"):
        attach_masks(source, tmp_path / "nothing")


def test_a_link_in_a_circle_is_no_folder_of_masks(tmp_path):
    root = write_files(tmp_path / "images", {"a.jpg": b""})
    (tmp_path / "masks").symlink_to(tmp_path / "masks")
    with pytest.raises(ValueError, match="no such folder of masks"):
        listed(root, tmp_path / "masks")


@pytest.mark.parametrize("name", ["images", "link"])
def test_masks_beside_their_pictures_are_left_out_and_counted(tmp_path, name):
    files = {"x/a.jpg": b"", "x/a.png": b"A", "x/b.jpg": b"", "y/b.png": b"", "c.png": b""}
    root = write_files(tmp_path / "images", files)
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    pairs, labels, description = listed(root, tmp_path / name)
    assert pairs == [("c.png", None), ("x/a.jpg", b"A"), ("x/b.jpg", None), ("y/b.png", None)]
    assert labels == ("x", "y")
    assert "folder of 4 pictures" in description
    assert "1 masks of other pictures left out" in description


def test_pictures_alone_are_not_their_own_masks(tmp_path):
    root = write_files(tmp_path, {"a.png": b"a", "b.png": b"b"})
    with pytest.raises(ValueError, match="no mask fits any picture"):
        listed(root, root)


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_of_masks_inside_the_source_is_no_class(tmp_path, is_link):
    root = write_files(tmp_path / "images", {"x/a.jpg": b"", "y/b.png": b""})
    masks = write_files(
        tmp_path / "elsewhere" if is_link else root / "masks",
        {"x/a.png": b"A", "y/b.png": b"B", "y/other.png": b""},
    )
    if is_link:
        (root / "masks").symlink_to(masks, target_is_directory=True)
    pairs, labels, _ = listed(root, masks)
    assert pairs == [("x/a.jpg", b"A"), ("y/b.png", b"B")]
    assert labels == ("x", "y")


def test_pictures_below_their_masks_can_be_masks_too(tmp_path):
    files = {"pictures/pictures/a.jpg": b"", "pictures/a.png": b"A", "pictures/b.jpg": b""}
    write_files(tmp_path, files | {"b.png": b"B"})
    pairs, _, description = listed(tmp_path / "pictures", tmp_path)
    assert pairs == [("b.jpg", b"B"), ("pictures/a.jpg", b"A")]
    assert "1 masks of other pictures left out" in description


def test_masks_do_not_count_for_the_limit(tmp_path):
    names = [f"{label}/{number}" for label in "ab" for number in range(4)]
    write_files(tmp_path, {f"{name}.jpg": b"" for name in names})
    write_files(tmp_path, {f"{name}.png": b"M" for name in names})
    pairs, _, _ = listed(tmp_path, tmp_path, limit=4)
    assert pairs == [(f"{name}.jpg", b"M") for name in ("a/0", "a/2", "b/0", "b/2")]


def test_masks_are_images_of_any_ending_in_any_case(tmp_path):
    write_files(tmp_path / "images", {f"x/{name}.jpg": b"" for name in "abcd"})
    write_files(
        tmp_path / "masks", {"x/a.PNG": b"A", "x/b.jpg": b"B", "x/c.Tiff": b"C", "x/d.txt": b"D"}
    )
    pairs, _, _ = listed(tmp_path / "images", tmp_path / "masks")
    assert [mask for _, mask in pairs] == [b"A", b"B", b"C", None]


def test_two_masks_of_one_image_are_refused_by_name(tmp_path):
    write_files(tmp_path / "images", {"x/a.jpg": b""})
    write_files(tmp_path / "masks", {"x/a.png": b"A", "x/a.jpg": b"B"})
    with pytest.raises(ValueError, match=r"x/a\.jpg and x/a\.png could both be the mask"):
        listed(tmp_path / "images", tmp_path / "masks")


def test_a_misread_set_is_noticed_early_but_not_empty_masks_of_some():
    check = MaskCheck(Foreground())
    for number in range(200):
        check.add(f"{number}.jpg", 0, "has the values 1, 2" if number % 3 == 0 else "")
    check = MaskCheck(Foreground())
    for number in range(31):
        check.add(f"{number}.jpg", 0, "has the values 1, 2")
    with pytest.raises(ValueError, match=r"32 of 32 masks .*that of 0\.jpg has the values 1, 2"):
        check.add("31.jpg", 0, "has the values 1, 2")


def test_a_constant_alpha_says_nothing_about_a_mask():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :1, :3] = 255
    pixels[:, :, 3] = 254
    foreground, doubt = foreground_of(Image.fromarray(pixels), AUTO)
    assert (foreground[:, 0] == 255).all()
    assert not foreground[:, 1:].any()
    assert doubt == ""


def test_a_float_mask_that_comes_out_empty_is_doubted():
    faint = np.zeros((4, 4), np.float32)
    faint[:2] = 0.4
    foreground, doubt = foreground_of(Image.fromarray(faint), AUTO)
    assert foreground.max() < 127
    assert doubt == "has the values 0, 0.4"


def test_links_to_nothing_among_the_masks_are_named(tmp_path):
    write_files(tmp_path / "source", {"a/1.jpg": jpeg(8, 8), "a/2.jpg": jpeg(8, 8)})
    write_files(tmp_path / "masks", {"a/1.png": b"mask"})
    (tmp_path / "masks/a/2.png").symlink_to("/nowhere")
    masks = tmp_path / "masks"
    source, found = attach_masks(list_records(str(tmp_path / "source"), masks=masks), masks)
    assert found == 1
    (entry,) = source.ignored
    assert (entry.reason, entry.names) == ("link to nothing, among the masks", ("a/2.png",))
