import gzip
import io
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from meshlore.errors import DataError
from meshlore.knowledge.builtin import DIGITS, fashion_mnist
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import fitted, load, load_npz, save_npz
from meshlore.knowledge.space import Space
from PIL import Image

PETS = Space((1, 20, 20), ("cat", "dog"))


def refusal(source, **options):
    with pytest.raises(DataError) as caught:
        load(str(source), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def brightness(loaded):
    """Mean value of each class."""
    data = loaded.dataset
    return [float(data.images[data.labels == label].mean()) for label in np.flatnonzero(data.counts())]


class TestFolders:
    def test_a_plain_folder_is_read_as_it_is(self, image_folder):
        loaded = load(str(image_folder()))
        assert loaded.dataset.space == PETS
        assert loaded.dataset.labels.tolist() == [0] * 6 + [1] * 6
        assert loaded.notes == ()
        assert brightness(loaded) == pytest.approx([40, 200], abs=2)

    @pytest.mark.parametrize(
        ("mode", "suffix", "channels"),
        [
            ("L", ".png", 1),
            ("L", ".JPG", 1),
            ("L", ".pgm", 1),
            ("1", ".png", 1),
            ("P", ".gif", 1),
            ("RGBA", ".png", 1),
            ("LA", ".png", 1),
            ("RGB", ".png", 3),
            ("RGB", ".jpeg", 3),
            ("RGB", ".WebP", 3),
            ("RGB", ".bmp", 3),
            ("RGB", ".tiff", 3),
            ("CMYK", ".tif", 1),
        ],
    )
    def test_common_kinds_of_images_are_read(self, image_folder, mode, suffix, channels):
        loaded = load(str(image_folder(mode=mode, suffix=suffix)))
        assert loaded.dataset.space.shape == (channels, 20, 20)
        dark, light = brightness(loaded)
        assert dark < light

    def test_sixteen_bit_grey_keeps_its_range(self, image_folder):
        root = image_folder()
        for path in root.glob("*/*.png"):
            Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) * 257).save(path)
        assert brightness(load(str(root))) == pytest.approx([40, 200], abs=2)

    def test_32_bit_pixels_are_refused(self, image_folder):
        root = image_folder()
        Image.fromarray(np.zeros((20, 20), np.float32)).save(root / "cat" / "depth.tif")
        assert "depth.tif cannot be used (32-bit pixels" in refusal(root)

    def test_what_is_transparent_becomes_white(self, image_folder):
        root = image_folder(mode="RGBA")
        for path in (root / "cat").iterdir():
            image = Image.open(path)
            image.putalpha(0)
            image.save(path)
        assert brightness(load(str(root)))[0] == 255

    def test_a_palette_with_a_transparent_colour_becomes_white_there(self, image_folder):
        root = image_folder()
        Image.new("P", (20, 20), 0).save(root / "cat" / "clear.png", transparency=0)
        loaded = load(str(root))
        assert loaded.dataset.images[loaded.dataset.labels == 0][-1].min() == 255

    def test_photos_are_turned_upright(self, image_folder):
        root = image_folder(suffix=".jpg", size=(32, 16))
        exif = Image.Exif()
        exif[0x0112] = 6
        half = np.zeros((32, 16), np.uint8)
        half[16:] = 255  # below in the file, left when seen
        Image.fromarray(half).save(root / "cat" / "turned.jpg", exif=exif, quality=95)
        loaded = load(str(root))
        assert loaded.notes == ()
        turned = loaded.dataset.images[6, 0]
        assert turned.shape == (16, 32)
        assert turned[:, :12].mean() > 250
        assert turned[:, 20:].mean() < 5

    def test_a_photo_with_a_second_one_inside_is_one_photo(self, image_folder, picture):
        root = image_folder(suffix=".jpg")
        photo, thumbnail = picture(40, mode="RGB"), picture(40, (10, 10), mode="RGB")
        photo.save(root / "cat" / "phone.jpg", "MPO", save_all=True, append_images=[thumbnail])
        loaded = load(str(root))
        assert len(loaded.dataset) == 13
        assert loaded.notes == ()

    def test_of_an_animation_the_first_picture_is_taken(self, image_folder, picture):
        root = image_folder()
        frames = [picture(250, seed=1), picture(1, seed=2)]
        picture(40).save(root / "cat" / "moving.gif", save_all=True, append_images=frames)
        loaded = load(str(root))
        assert loaded.notes == ("took the first picture of 1 animated or many-page images",)
        assert loaded.dataset.images[loaded.dataset.labels == 0].max() < 60

    def test_large_images_are_resized_and_the_note_says_so(self, image_folder):
        loaded = load(str(image_folder(size=(120, 80))))
        assert loaded.dataset.space.shape == (1, 64, 64)
        assert loaded.notes == ("resized 12 images: 120x80 -> 64x64",)
        assert brightness(loaded) == pytest.approx([40, 200], abs=2)

    def test_different_sizes_become_one(self, image_folder, picture):
        root = image_folder(size=(30, 20))
        picture(40, (11, 9)).save(root / "cat" / "small.png")
        picture(40, (500, 3)).save(root / "cat" / "wide.png")
        loaded = load(str(root))
        assert loaded.dataset.space.shape == (1, 30, 30)
        assert loaded.notes == ("resized 14 images: 30x20 and 2 other sizes -> 30x30",)

    def test_tiny_images_are_enlarged(self, image_folder):
        assert load(str(image_folder(size=(3, 1)))).dataset.space.shape == (1, 8, 8)

    def test_the_user_may_choose_size_and_channels(self, image_folder):
        loaded = load(str(image_folder(mode="RGB")), size=(10, 12), channels=1)
        assert loaded.dataset.space.shape == (1, 10, 12)
        assert "colour images were turned into grey ones" in loaded.notes

    def test_a_size_out_of_bounds_is_refused(self, image_folder):
        assert "100x100 pixels: choose sides" in refusal(image_folder(), size=(100, 100))

    def test_the_space_of_the_mesh_decides_all(self, image_folder):
        space = Space((3, 16, 24), ("bird", "dog", "cat"), levels=5)
        loaded = load(str(image_folder()), space=space, size=(9, 9), channels=1, classes=["x", "y"])
        data = loaded.dataset
        assert data.space is space
        assert data.counts().tolist() == [0, 6, 6]
        assert data.images.max() <= 4
        assert loaded.notes == ("resized 12 images: 20x20 -> 24x16", "no samples of bird")

    def test_the_founder_may_name_classes_it_has_no_samples_of(self, image_folder):
        loaded = load(str(image_folder()), classes=["dog", "horse", "cat"])
        assert loaded.dataset.space.classes == ("dog", "horse", "cat")
        assert loaded.dataset.counts().tolist() == [6, 0, 6]

    def test_classes_that_are_numbers_are_ordered_by_value(self, image_folder):
        names = tuple(map(str, range(12)))
        assert load(str(image_folder(per_class=2, classes=names))).dataset.space.classes == names

    def test_decomposed_names_are_the_same_as_composed_ones(self, image_folder):
        root = image_folder(classes=("dog", unicodedata.normalize("NFD", "käfer")))
        assert load(str(root)).dataset.space.classes == ("dog", "käfer")

    def test_hidden_files_and_clutter_do_not_matter(self, image_folder):
        root = image_folder()
        for name in (".DS_Store", "cat/.hidden.png", "dog/Thumbs.db"):
            (root / name).write_bytes(b"x")
        (root / ".cache").mkdir()
        assert load(str(root)).notes == ()

    def test_other_files_are_skipped_with_a_note(self, image_folder):
        root = image_folder()
        (root / "readme.txt").write_text("x")
        (root / "cat" / "labels.csv").write_text("x")
        os.mkfifo(root / "cat" / "pipe.png")
        (root / "cat" / "nowhere.png").symlink_to(root / "absent.png")
        (note,) = load(str(root)).notes
        assert note.startswith("skipped 4 entries that are no images: cat/labels.csv")

    def test_links_to_images_and_class_folders_are_followed(self, image_folder, tmp_path):
        image_folder("elsewhere", classes=("owl",))
        root = image_folder()
        (root / "owl").symlink_to(tmp_path / "elsewhere" / "owl")
        assert load(str(root)).dataset.space.classes == ("cat", "dog", "owl")

    def test_links_in_circles_end(self, image_folder):
        root = image_folder()
        (root / "cat" / "again").symlink_to(root)
        (root / "itself").symlink_to(root / "itself")
        assert len(load(str(root)).dataset) == 12
        (root / "loop").symlink_to(root)
        assert "loop holds no images" in refusal(root)

    @pytest.mark.parametrize(
        "damage",
        [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not an image at all"],
        ids=["truncated", "empty", "text"],
    )
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif", ".ppm"])
    def test_a_broken_image_is_named(self, image_folder, damage, suffix):
        root = image_folder(suffix=suffix, size=(60, 60), mode="L" if suffix == ".gif" else "RGB")
        broken = root / "dog" / f"3{suffix}"
        broken.write_bytes(damage(broken.read_bytes()))
        assert str(broken) in refusal(root)

    def test_overwritten_bytes_are_found_where_the_format_has_checksums(self, image_folder):
        root = image_folder(size=(60, 60))
        broken = root / "dog" / "3.png"
        data = broken.read_bytes()
        broken.write_bytes(data[:60] + bytes(40) + data[100:])
        assert str(broken) in refusal(root)

    def test_all_broken_images_are_counted(self, image_folder):
        root = image_folder()
        for index in range(4):
            (root / "cat" / f"{index}.png").write_bytes(b"")
        assert "0.png is not an image that can be read, and 3 more like it" in refusal(root)

    @pytest.mark.parametrize("side", [8_000, 60_000])
    def test_a_decompression_bomb_is_refused_unread(self, image_folder, side):
        root = image_folder()
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
        bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
        (root / "cat" / "bomb.png").write_bytes(bomb)
        assert "bomb.png has more than 50 megapixels" in refusal(root)

    def test_an_empty_class_is_named(self, image_folder):
        root = image_folder()
        (root / "bird").mkdir()
        assert f"{root / 'bird'} holds no images: add some or remove it" in refusal(root)

    def test_a_folder_one_level_too_high_is_recognised(self, image_folder, tmp_path):
        image_folder("all/train")
        assert "choose the folder whose sub-folders hold the images" in refusal(tmp_path / "all")

    def test_a_class_unknown_to_the_mesh_is_named(self, image_folder):
        root = image_folder(classes=("cat", "dog", "bird"))
        assert f"class folder {root / 'bird'} is none of the classes" in refusal(root, space=PETS)

    def test_another_case_is_an_unknown_class_with_a_hint(self, image_folder):
        assert "rename it to 'cat'" in refusal(image_folder(classes=("Cat", "dog")), space=PETS)

    def test_classes_that_differ_only_in_case_are_refused(self, image_folder):
        root = image_folder(classes=("cat", "dog"))
        (root / "Cat").mkdir()
        if len(list(root.iterdir())) == 3:
            (root / "Cat" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes())
            assert "differ only in case" in refusal(root)

    def test_a_single_class_makes_no_space(self, image_folder):
        root = image_folder(classes=("cat",))
        assert f"{root}: 1 class" in refusal(root)

    def test_images_without_class_folders_are_recognised(self, tmp_path, picture):
        picture(3).save(tmp_path / "a.png")
        assert "holds images but no class folders" in refusal(tmp_path)

    def test_an_empty_folder_is_refused(self, tmp_path):
        assert "holds no class folders" in refusal(tmp_path)

    def test_too_few_samples_are_refused(self, image_folder):
        assert "holds 8 samples" in refusal(image_folder(per_class=4))

    def test_a_class_of_one_sample_is_refused(self, image_folder, picture):
        root = image_folder()
        (root / "bird").mkdir()
        picture(1).save(root / "bird" / "only.png")
        assert "class 'bird'" in refusal(root)

    def test_what_does_not_exist_is_named_with_the_built_ins(self, tmp_path):
        assert "digits, fashion-mnist" in refusal("digitz")
        assert "digits:tset" in refusal("digits:tset")
        (tmp_path / "a.zip").write_bytes(b"")
        assert "neither a folder nor an .npz file" in refusal(tmp_path / "a.zip")


class TestArchives:
    def data(self):
        images = np.arange(12 * 3 * 8 * 9, dtype=np.uint32).astype(np.uint8).reshape(12, 3, 8, 9) // 16
        space = Space((3, 8, 9), ("cat", "käfer"), levels=16)
        return Dataset(space, images, np.array([0, 1] * 6))

    def test_what_was_saved_is_loaded(self, tmp_path):
        data, path = self.data(), tmp_path / "mine.npz"
        save_npz(path, data)
        loaded = load(str(path))
        assert loaded.dataset.space == data.space
        np.testing.assert_array_equal(loaded.dataset.images, data.images)
        np.testing.assert_array_equal(loaded.dataset.labels, data.labels)
        assert [entry.name for entry in tmp_path.iterdir()] == ["mine.npz"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"images": np.zeros((12, 8, 9), np.uint8)},
            {"images": np.zeros((12, 3, 8, 9), np.float32)},
            {"images": np.full((12, 3, 8, 9), 16, np.uint8)},
            {"labels": np.full(12, 2)},
            {"labels": np.array([{}] * 12)},
            {"classes": np.array(["cat"])},
            {"classes": np.array([1, 2])},
            {"levels": np.array([16])},
            {"levels": np.array("many")},
            {"more": np.zeros(3)},
        ],
        ids=str,
    )
    def test_other_arrays_are_refused(self, tmp_path, changes):
        data, path = self.data(), tmp_path / "mine.npz"
        fields = {
            "images": data.images,
            "labels": data.labels,
            "classes": np.array(["a", "b"]),
            "levels": np.array(16),
        }
        np.savez(path, **{**fields, **changes})
        assert str(path) in refusal(path)

    def test_every_truncation_is_refused(self, tmp_path):
        path = tmp_path / "mine.npz"
        save_npz(path, self.data())
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"mine\.npz"):
                load_npz(path)


class TestFitting:
    def test_digits_fit_a_larger_space_with_more_classes(self):
        space = Space((3, 28, 28), ("x", *reversed("0123456789")))
        plain, loaded = load("digits:test"), load("digits:test", space=space)
        assert loaded.dataset.space is space
        np.testing.assert_array_equal(loaded.dataset.labels, 10 - plain.dataset.labels)
        assert loaded.notes == ("resized 8x8 -> 28x28",)
        assert loaded.dataset.images.mean() / 255 == pytest.approx(plain.dataset.images.mean() / 16, abs=0.02)

    def test_levels_alone_are_requantised_exactly(self):
        plain = load("digits").dataset
        finer = fitted(plain, Space((1, 8, 8), DIGITS.classes, levels=256)).dataset
        np.testing.assert_array_equal(fitted(finer, DIGITS).dataset.images, plain.images)

    def test_the_own_space_changes_nothing(self):
        plain = load("digits").dataset
        assert fitted(plain, DIGITS).dataset is plain

    def test_unknown_classes_are_refused(self):
        with pytest.raises(DataError, match="class '0' is unknown"):
            load("digits", space=PETS)


class TestFashionMnist:
    def write(self, folder, n=30, images=None, labels=None):
        pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for prefix in ("train", "t10k"):
            image_bytes = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + pixels.tobytes()
            label_bytes = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(index % 10 for index in range(n))
            (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images or image_bytes))
            (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels or label_bytes))
        return pixels

    def test_the_files_are_read(self, tmp_path):
        pixels = self.write(tmp_path)
        data = fashion_mnist("test", tmp_path)
        np.testing.assert_array_equal(data.images[:, 0], pixels)
        assert data.counts().tolist() == [3] * 10

    def test_a_missing_package_is_named(self, tmp_path):
        with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
            fashion_mnist("train", tmp_path / "absent")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            struct.pack(">4B3I", 0, 0, 8, 3, 30, 28, 28),
            struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31) + bytes(99),
            struct.pack(">4B3I", 0, 0, 9, 3, 1, 1, 1) + bytes(1),
            struct.pack(">4B3I", 0, 0, 8, 3, 30, 2, 2) + bytes(120),
        ],
    )
    def test_damaged_files_are_refused(self, tmp_path, content):
        self.write(tmp_path, images=content or b"\0")
        with pytest.raises(DataError, match="install it anew"):
            fashion_mnist("train", tmp_path)

    def test_a_file_that_is_not_compressed_is_refused(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(io.BytesIO(b"plain").getvalue())
        with pytest.raises(DataError, match="cannot be read"):
            fashion_mnist("train", tmp_path)
