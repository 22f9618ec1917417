"""Lists, datasets and the coercion of what users give to a source of images."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conceptatlas.extraction import DatasetSource, FolderSource, ImageError, ListSource, SourceError, as_source


class TestAsSource:
    def test_folder_gives_a_folder_source(self, image_folder):
        assert isinstance(as_source(str(image_folder(ants=1))), FolderSource)

    def test_one_file_gives_one_sample(self, image_folder):
        source = as_source(image_folder(ants=1) / "ants" / "0.jpg")
        assert source.ids == ["0.jpg"]

    def test_source_is_returned_itself(self, image_folder):
        source = FolderSource(image_folder(ants=1))
        assert as_source(source) is source

    def test_dataset_is_not_read_to_see_that_it_is_a_source(self, picture):
        class Counted:
            reads = 0

            def __len__(self):
                return 3

            def __getitem__(self, index):
                self.reads += 1
                return picture(8, 8), 0

        dataset = Counted()
        assert as_source(as_source(dataset))[0].label == 0
        assert dataset.reads == 1

    @pytest.mark.parametrize("kind", [np.array, pd.Series, lambda paths: pd.Series(paths, index=list("ab"))])
    def test_array_and_column_of_paths_are_lists_of_paths(self, kind, image_folder):
        root = image_folder(ants=2)
        source = as_source(kind([str(root / "ants" / f"{i}.jpg") for i in range(2)]))
        assert source.ids == ["0.jpg", "1.jpg"]

    def test_table_is_refused_with_the_remedy(self):
        with pytest.raises(SourceError, match=r"table with path, label: pass a list of \(path, label\) pairs"):
            as_source(pd.DataFrame({"path": ["a.jpg"], "label": [0]}))

    def test_data_loader_is_refused_with_the_remedy(self, picture):
        loader = torch.utils.data.DataLoader([picture(8, 8)])
        with pytest.raises(SourceError, match=r"loader\.dataset"):
            as_source(loader)

    def test_dictionary_of_splits_is_refused_with_its_keys(self, picture):
        with pytest.raises(SourceError, match="train, val: pass one"):
            as_source({"train": [picture(8, 8)], "val": []})

    @pytest.mark.parametrize("value", [3, iter([]), None])
    def test_other_types_are_refused_by_name(self, value):
        with pytest.raises(SourceError, match=type(value).__name__):
            as_source(value)


class TestListSource:
    def test_paths_get_ids_relative_to_their_common_folder(self, image_folder):
        root = image_folder(ants=1, bees=1)
        source = ListSource([(root / "ants" / "0.jpg", "ant"), (str(root / "bees" / "0.jpg"), "bee")])
        assert source.ids == ["ants/0.jpg", "bees/0.jpg"]
        assert [source[i].label for i in range(2)] == ["ant", "bee"]

    def test_pairs_may_be_lists_and_labels_numbers_of_numpy_and_torch(self, image_folder):
        path = image_folder(ants=1) / "ants" / "0.jpg"
        source = ListSource([[path, "ant"], (path, np.int64(3)), (path, torch.tensor(4)), (path, np.str_("bee"))])
        assert source.labels == ["ant", 3, 4, "bee"]
        assert [type(label) for label in source.labels] == [str, int, int, str]

    def test_the_same_path_twice_gets_two_ids(self, image_folder):
        path = image_folder(ants=1) / "ants" / "0.jpg"
        assert ListSource([path, path]).ids == ["0.jpg", "0.jpg#2"]

    def test_images_get_ids_from_their_pixels(self, picture):
        one, other = picture(8, 8, seed=1), picture(8, 8, seed=2)
        ids = ListSource([one, other, one]).ids
        assert [name[:9] for name in ids] == ["00000000-", "00000001-", "00000002-"]
        assert ids[0][9:] == ids[2][9:] != ids[1][9:]

    def test_missing_file_is_an_image_error(self, tmp_path):
        with pytest.raises(ImageError, match="missing"):
            ListSource([tmp_path / "none.jpg"])[0]

    def test_empty_list_is_refused(self):
        with pytest.raises(SourceError, match="empty"):
            ListSource([])

    def test_numbers_are_refused(self):
        with pytest.raises(SourceError, match="int"):
            ListSource([1, 2])


class TestDatasetSource:
    def test_torchvision_folder_gives_names_for_labels(self, image_folder):
        from torchvision.datasets import ImageFolder

        root = image_folder(ants=1, bees=1)
        source = as_source(ImageFolder(root))
        assert source.labels == ["ants", "bees"]
        assert np.array_equal(source[1].image, FolderSource(root)[1].image)

    def test_dictionary_items_are_found_by_key(self, picture):
        dataset = [{"image": picture(8, 8), "label": 1}]
        assert DatasetSource(dataset)[0].label == 1

    def test_names_of_a_feature_column_are_used(self, picture):
        class Names:
            names = ("cat", "dog")

        class Table(list):
            features = {"image": None, "label": Names()}

        assert DatasetSource(Table([{"image": picture(8, 8), "label": 1}])).labels == ["dog"]

    def test_float_and_byte_tensors_give_the_same_picture(self, picture):
        image = picture(9, 7)
        bytes_ = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        source = DatasetSource([(bytes_, 0), (bytes_ / 255, 0)])
        assert np.array_equal(source[0].image, image)
        assert np.array_equal(source[1].image, image)

    @pytest.mark.parametrize(
        "kind", [torch.float16, torch.bfloat16, torch.float64, torch.uint16, "grad", "numpy", "hwc"]
    )
    def test_any_kind_of_tensor_or_array_gives_the_same_picture(self, kind, picture):
        image = picture(9, 7)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        given = {
            "grad": lambda: values.clone().requires_grad_(),
            "numpy": lambda: values.numpy(),
            "hwc": lambda: values.permute(1, 2, 0).numpy(),
            torch.uint16: lambda: (values * 65535).round().to(torch.uint16),
        }.get(kind, lambda: values.to(kind))()
        found = np.asarray(DatasetSource([(given, 0)])[0].image).astype(int)
        assert np.abs(found - np.asarray(image)).max() <= (1 if kind is torch.bfloat16 else 0)

    def test_rounding_beyond_one_is_clipped(self):
        assert DatasetSource([(torch.full((3, 4, 4), 1.0001), 0)])[0].image.getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("picture_of", "cause"),
        [
            (lambda: torch.full((3, 4, 4), torch.nan), "range"),
            (lambda: torch.zeros(3, 0, 0), "empty"),
            (lambda: None, "missing"),
            (lambda: "nowhere.jpg", "missing"),
            (lambda: {"bytes": b"", "path": None}, "empty"),
        ],
        ids=["nan", "empty", "none", "no file", "no bytes"],
    )
    def test_item_without_a_picture_is_an_image_error(self, picture_of, cause):
        with pytest.raises(ImageError) as caught:
            DatasetSource([{"image": picture_of(), "label": 0}])[0]
        assert caught.value.cause == cause

    def test_undecoded_images_of_hugging_face_are_read(self, image_folder):
        path = image_folder(ants=1) / "ants" / "0.jpg"
        kinds = ({"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)})
        source = DatasetSource([{"image": kind, "label": 0} for kind in kinds])
        assert np.array_equal(source[0].image, FolderSource(path.parent)[0].image)
        assert np.array_equal(source[1].image, source[0].image)

    @pytest.mark.parametrize("label", [torch.eye(3)[0], [1, 2], 0.5])
    def test_label_that_is_no_class_is_not_known(self, label, picture):
        assert DatasetSource([(picture(8, 8), label)])[0].label is None

    def test_part_of_a_dataset_has_its_names(self, image_folder):
        from torch.utils.data import ConcatDataset, Subset
        from torchvision.datasets import ImageFolder

        whole = ImageFolder(image_folder(ants=2, bees=2))
        assert as_source(Subset(whole, [3, 0])).labels == ["bees", "ants"]
        assert as_source(ConcatDataset([Subset(whole, [3]), whole])).labels == ["bees", "ants", "ants", "bees", "bees"]

    def test_one_channel_tensor_becomes_rgb(self):
        assert DatasetSource([(torch.zeros(1, 4, 6), 0)])[0].image.size == (6, 4)

    def test_normalised_tensors_are_refused_with_the_remedy(self):
        with pytest.raises(SourceError, match="leave out Normalize"):
            DatasetSource([(torch.full((3, 4, 4), -1.5), 0)])[0]

    def test_ids_are_stable_and_tell_content_apart(self, picture):
        dataset = [(picture(8, 8, seed=seed), 0) for seed in (1, 2)]
        assert DatasetSource(dataset).ids == DatasetSource(dataset).ids
        assert DatasetSource(dataset)[1].sample_id == DatasetSource(dataset).ids[1]
        assert DatasetSource(dataset).ids != DatasetSource(dataset[::-1]).ids

    def test_failing_item_is_an_image_error_and_keeps_an_id(self, picture):
        class Broken(list):
            def __getitem__(self, index):
                if index == 1:
                    raise OSError("torn")
                return super().__getitem__(index)

        source = DatasetSource(Broken([(picture(8, 8), 0)] * 2))
        with pytest.raises(ImageError, match="OSError: torn"):
            source[1]
        assert source.ids[1] == "00000001-unreadable"

    def test_item_without_an_image_is_refused(self):
        with pytest.raises(SourceError, match="int"):
            DatasetSource([(3, 4)])[0]
        with pytest.raises(SourceError, match="image_key"):
            DatasetSource([{"text": "a"}])[0]


def test_label_of_a_tensor_is_a_plain_number(picture):
    label = DatasetSource([(picture(8, 8), torch.tensor(4))])[0].label
    assert label == 4
    assert type(label) is int


def test_greyscale_dataset_image_becomes_rgb():
    assert DatasetSource([(Image.new("L", (8, 8), 7), 0)])[0].image.getpixel((0, 0)) == (7, 7, 7)
