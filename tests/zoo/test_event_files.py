"""Event files in the formats they are published in, whole and damaged."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_formats import AEDAT, EVENTS, nmnist, packet

from spiketune.zoo import DataError
from spiketune.zoo.event_files import (
    gesture_trials,
    open_h5,
    read_aedat,
    read_gesture,
    read_nmnist,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "some.file"


class TestNMNIST:
    def test_reads_five_bytes_an_event(self, file: Path) -> None:
        file.write_bytes(nmnist(EVENTS))
        assert read_nmnist(file).tolist() == EVENTS

    def test_equals_tonic_s_reader(self, file: Path) -> None:
        io = pytest.importorskip("tonic.io", reason="tonic is not installed")
        random = np.random.default_rng(0)
        times = np.sort(random.integers(0, 2**13, 50)).tolist()
        rows = [240 if k in (20, 35) else int(random.integers(34)) for k in range(50)]
        file.write_bytes(nmnist([(t, 5, y, t % 2) for t, y in zip(times, rows, strict=True)]))
        expected = io.read_mnist_file(str(file), np.dtype([(name, int) for name in "xytp"]))
        ours = read_nmnist(file)
        assert len(ours) == 48 and ours["t"].max() > 2**14
        for name in "txyp":
            assert np.array_equal(ours[name], expected[name])

    def test_an_overflow_mark_moves_what_comes_after(self, file: Path) -> None:
        file.write_bytes(nmnist([(9000, 1, 1, 0), (0, 0, 240, 0), (900, 2, 2, 1)]))
        assert read_nmnist(file).tolist() == [(9000, 1, 1, 0), (900 + 8192, 2, 2, 1)]

    @given(length=st.integers(0, 19).filter(lambda length: length % 5 or not length))
    def test_a_file_cut_within_an_event_is_refused(
        self, tmp_path_factory: pytest.TempPathFactory, length: int
    ) -> None:
        file = tmp_path_factory.mktemp("cut") / "00001.bin"
        file.write_bytes(nmnist(EVENTS)[:length])
        with pytest.raises(DataError, match=rf"00001\.bin holds {length} bytes, which is not 5"):
            read_nmnist(file)

    def test_a_file_that_is_not_there(self, file: Path) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            read_nmnist(file)


class TestAedat:
    def test_reads_valid_polarity_events_of_all_packets(self, file: Path) -> None:
        special = packet([(5, 0, 0, 0)], kind=0)
        content = AEDAT + packet(EVENTS[:2]) + special + packet(EVENTS[2:])
        file.write_bytes(content + packet([(8, 8, 8, 1)], valid=0))
        assert read_aedat(file).tolist() == EVENTS

    def test_time_goes_on_after_31_bits(self, file: Path) -> None:
        file.write_bytes(AEDAT + packet([(2**31 - 1, 1, 1, 1)]) + packet([(4, 1, 1, 1)], laps=1))
        assert read_aedat(file)["t"].tolist() == [2**31 - 1, 2**31 + 4]

    def test_equals_tonic_s_addresses(self, file: Path) -> None:
        io = pytest.importorskip("tonic.io", reason="tonic is not installed")
        file.write_bytes(AEDAT + packet(EVENTS) + packet(EVENTS))
        raw = io.get_aer_events_from_file(str(file), 3.1, len(AEDAT))
        ours = read_aedat(file)
        assert np.array_equal(ours["t"], raw["timeStamp"])
        address = ours["x"].astype(np.uint32) << 17 | ours["y"].astype(np.uint32) << 2
        assert np.array_equal(address | ours["p"].astype(np.uint32) << 1 | 1, raw["address"])

    @given(cut=st.integers(1, 87).filter(lambda cut: cut != 44))
    def test_a_file_cut_within_a_packet_is_refused(
        self, tmp_path_factory: pytest.TempPathFactory, cut: int
    ) -> None:
        file = tmp_path_factory.mktemp("cut") / "user01_led.aedat"
        content = packet(EVENTS[:2]) * 2
        assert len(content) == 88
        file.write_bytes(AEDAT + content[:cut])
        with pytest.raises(DataError, match=r"ends within the header|bytes left where a packet"):
            read_aedat(file)

    def test_packets_that_promise_nonsense_are_refused(self, file: Path) -> None:
        for size, capacity, number in ((0, 1, 1), (8, -1, 0), (8, 1, 2), (4, 1, 1)):
            header = struct.pack("<hhiiiiii", 1, 1, size, 4, 0, capacity, number, 0)
            file.write_bytes(AEDAT + header + bytes(8))
            with pytest.raises(DataError, match="bytes left where a packet promises"):
                read_aedat(file)

    @pytest.mark.parametrize(
        "content", [b"", b"#!AER-DAT2.0\r\n#!END-HEADER\r\n", b"#!AER-DAT3.1\r\n"]
    )
    def test_another_format_is_refused(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"header of AEDAT 3\.1"):
            read_aedat(file)

    def test_a_file_without_polarity_events_is_refused(self, file: Path) -> None:
        file.write_bytes(AEDAT + packet([(5, 0, 0, 0)], kind=0))
        with pytest.raises(DataError, match="no polarity events"):
            read_aedat(file)


class TestGesture:
    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (
                "class,startTime_usec,endTime_usec\n1,900,100\n",
                "class 1 that lasts from 900 to 100",
            ),
            ("class,startTime_usec,endTime_usec\n1,900\n", "no table of class"),
            ("class,start,end\n1,2,3\n", "no table of class"),
            ("class,startTime_usec,endTime_usec\n1,soon,later\n", "no table of class"),
            (None, "no table of class"),
        ],
    )
    def test_a_bad_table_is_refused(self, file: Path, table: str | None, message: str) -> None:
        if table is not None:
            file.with_name("some_labels.csv").write_text(table)
        with pytest.raises(DataError, match=message):
            gesture_trials(file)

    def test_reads_tonic_s_arrays(self, tmp_path: Path) -> None:
        rows = np.array([(x, y, p, t / 1000) for t, x, y, p in EVENTS], np.float32)
        np.save(tmp_path / "3.npy", rows)
        assert read_gesture(tmp_path / "3.npy").tolist() == EVENTS

    def test_damaged_arrays_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "3.npy"
        np.save(path, np.zeros((5, 4)))
        whole = path.read_bytes()
        for content in (b"", whole[:-9], b"nonsense"):
            path.write_bytes(content)
            with pytest.raises(DataError, match="no array or cut short"):
                read_gesture(path)
        np.save(path, np.zeros((5, 3)))
        with pytest.raises(DataError, match=r"\[5, 3\] instead of \[events, 4\]"):
            read_gesture(path)


class TestH5:
    def test_without_h5py_the_extra_is_named(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(DataError, match=r"needs h5py.*spiketune\[events\]"):
            open_h5(file)

    def test_a_file_cut_short_is_refused(self, file: Path) -> None:
        h5py = pytest.importorskip("h5py", reason="h5py is not installed")
        with h5py.File(file, "w") as made:
            made["labels"] = np.arange(1000)
        file.write_bytes(file.read_bytes()[:3000])
        with pytest.raises(DataError, match="is damaged or cut short"):
            open_h5(file)
