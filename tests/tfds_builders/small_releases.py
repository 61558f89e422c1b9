"""Releases of a few pictures in each official form, written by hand so that tests know every byte."""

from pathlib import Path

import cv2
import numpy as np


def encode_jpeg(seed: int = 0, size: tuple[int, int] = (24, 32)) -> bytes:
    """A small JPEG that is different for every seed."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), size[::-1])
    return cv2.imencode(".jpg", image)[1].tobytes()


def claim_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size than it has."""
    data = bytearray(encode_jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def write(path: Path, content: str | bytes) -> Path:
    """Writes a file, and the folders around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Every line of the lists below is (name, identity, camera).
VRIC = {
    "train": [("MVI_1_1_img1.jpg", 7, 1), ("MVI_1_2_img1.jpg", 7, 2), ("MVI_2_1_img9.jpg", 0, 3)],
    "query": [("MVI_9_1_img1.jpg", 5, 4), ("MVI_9_2_img2.jpg", 6, 5)],
    "gallery": [("MVI_8_1_img1.jpg", 6, 6), ("MVI_8_2_img2.jpg", 5, 7)],
}


def write_vric(root: Path) -> Path:
    """A VRIC release of 7 pictures."""
    for split, name in (("train", "train"), ("query", "probe"), ("gallery", "gallery")):
        write(root / f"vric_{name}.txt", "".join(f"{n} {i} {c}\n" for n, i, c in VRIC[split]))
        for index, (picture, _, _) in enumerate(VRIC[split]):
            write(root / f"{name}_images" / picture, encode_jpeg(index))
    return root


VERI_TRAIN = ["0001_c001_00016450_0.jpg", "0001_c002_00016460_1.jpg", "0003_c020_00000005_0.jpg"]
VERI_GALLERY = [
    "0002_c001_00000001_0.jpg",
    "0002_c001_00000009_1.jpg",
    "0002_c003_00000002_0.jpg",
    "0002_c004_00000003_0.jpg",
    "0776_c003_00000004_0.jpg",
    "0776_c005_00000006_0.jpg",
]
VERI_QUERY = ["0002_c001_00000001_0.jpg", "0002_c003_00000002_0.jpg", "0776_c005_00000006_0.jpg"]
# By hand: line i holds the 1-based gallery lines of query i, with a trailing space.
VERI_GOOD = ["3 4 ", "1 2 4 ", "5 "]
VERI_JUNK = ["1 2 ", "3 ", "6 "]


def write_veri776(root: Path) -> Path:
    """A VeRi-776 release of 12 pictures with the real one's irregularities."""
    write(root / "name_train.txt", "".join(f"{name}\r\n" for name in VERI_TRAIN))
    write(root / "name_query.txt", "".join(f"{name}\n" for name in VERI_QUERY))
    write(root / "name_test.txt", "\r\n".join(VERI_GALLERY))  # no final line ending
    write(root / "gt_index.txt", "".join(f"{line}\r\n" for line in VERI_GOOD))
    write(root / "jk_index.txt", "".join(f"{line}\r\n" for line in VERI_JUNK))
    for folder, names in (("train", VERI_TRAIN), ("query", VERI_QUERY), ("test", VERI_GALLERY)):
        for name in names:
            write(root / f"image_{folder}" / name, encode_jpeg(sum(name.encode())))
    # The second training picture has no item, the third the type 0 of old copies; one item is of no picture.
    items = [(VERI_TRAIN[0], 1, 4), (VERI_TRAIN[2], 10, 0), ("0009_c001_00000000_0.jpg", 2, 2)]
    write_labels(root / "train_label.xml", "TrainingImages", items)
    write_labels(root / "test_label.xml", "TestImages", [(name, 2, 9) for name in VERI_GALLERY])
    return root


def write_labels(path: Path, tag: str, items: list[tuple[str, int, int]]) -> None:
    """A VeRi label file in gb2312, with a comment that is not ASCII."""
    lines = [
        '<?xml version="1.0" encoding="gb2312" ?>',
        "<!-- 车辆 -->",
        f'<{tag} Version="1.0">',
        f'<Items number="{len(items)}">',
        *(
            f'<Item imageName="{name}" vehicleID="{name[:4]}" cameraID="{name[5:9]}" colorID="{color}" '
            f'typeID="{type_}" />'
            for name, color, type_ in items
        ),
        "</Items>",
        f"</{tag}>",
    ]
    write(path, "\r\n".join(lines).encode("gb2312"))


def write_vehicleid(root: Path) -> Path:
    """A VehicleID release of 9 pictures, with vehicle 0 and gaps in the numbers."""
    write(root / "train_test_split/train_list.txt", "0000001 0\n0000003 0\n0000010 12\n")
    write(
        root / "train_test_split/test_list_800.txt", "0000020 5\n0000021 5\n0000022 5\n0000030 8\n0000031 8\n"
    )
    write(root / "train_test_split/test_list_1600.txt", "0000020 5\n0000021 5\n0000040 9\n")
    for number in (1, 3, 10, 20, 21, 22, 30, 31, 40):
        write(root / f"image/{number:07d}.jpg", encode_jpeg(number))
    write(root / "attribute/color_names.txt", "black 0\r\nsliver 1\r\n")
    write(root / "attribute/color_attr.txt", "0 1\r\n5 0\r\n")
    write(root / "attribute/model_names.txt", "奥迪 A6L 0\n大众朗逸 1\n".encode("gb18030"))
    write(root / "attribute/model_attr.txt", "0 0\n12 1\n")
    return root


def write_veri_wild(root: Path, *, newer: bool = False) -> Path:
    """A VERI-Wild release of 7 pictures, in its first or its newer form."""
    cameras = {"11/1": 3, "11/2": 4, "12/3": 3, "31000/4": 5, "31000/5": 6, "31001/6": 7, "31001/7": 174}

    def write_list(name: str, pictures: list[str], label: int | None) -> None:
        rows = []
        for picture in pictures:
            vehicle = picture.split("/")[0] if label is None else str(label)
            rows.append(f"{picture}.jpg" + (f" {vehicle} {cameras[picture]}" if newer else ""))
        write(root / "train_test_split" / name, "\n".join(rows) + "\n")

    train = "train_list_start0.txt" if newer else "train_list.txt"
    middle = "_id" if newer else ""
    write_list(train, ["11/1", "11/2", "12/3"], label=0)
    write_list(f"test_3000{middle}_query.txt", ["31000/4", "31001/6"], label=None)
    write_list(f"test_3000{middle}.txt", ["31000/5", "31001/7"], label=None)
    if not newer:
        rows = [f"{p};{c};2018-03-11 08:15:20;奥迪A6;SUV;white" for p, c in cameras.items()]
        header = "id/image;Camera ID;Time;Model;Type;Color"
        write(root / "train_test_split/vehicle_info.txt", "\n".join([header, *rows]).encode("gb18030"))
    for index, picture in enumerate(cameras):
        write(root / f"images/{picture}.jpg", encode_jpeg(index))
    return root


CSV_ROWS = [
    "image,id,camera,split",
    "a/1.jpg,3,1,train",
    "a/2.jpg,4,,train",
    "q.jpg,9,2,query",
    "g.jpg,9,3,gallery",
]


def write_vehicle_csv(root: Path) -> Path:
    """A manifest of 4 pictures."""
    write(root / "manifest.csv", "\n".join(CSV_ROWS))
    for index, name in enumerate(["a/1.jpg", "a/2.jpg", "q.jpg", "g.jpg"]):
        write(root / name, encode_jpeg(index))
    return root


WRITERS = {
    "vric": write_vric,
    "veri776": write_veri776,
    "vehicleid": write_vehicleid,
    "veri_wild": write_veri_wild,
    "vehicle_csv": write_vehicle_csv,
}
