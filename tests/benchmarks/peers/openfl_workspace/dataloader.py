"""What OpenFL asks of a data loader; the images themselves are the task runner's."""

from common import IMAGES, SIDE
from openfl.federated import PyTorchDataLoader


class Loader(PyTorchDataLoader):
    def __init__(self, data_path=None, batch_size=IMAGES, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(batch_size, **options)
        self.site = int(data_path or 0)

    def get_feature_shape(self) -> list[int]:
        return [1, SIDE, SIDE]

    def get_num_classes(self) -> int:
        return 2

    def get_train_loader(self, **_: object) -> list[int]:
        return [1]

    get_valid_loader = get_train_loader

    def get_train_data_size(self) -> int:
        return IMAGES

    get_valid_data_size = get_train_data_size
