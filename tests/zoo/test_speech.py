"""Sound files, the mel filter bank and the crossings, each against another way to them."""

from __future__ import annotations

import math
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from real_formats import sphere, tone, write_wav

from spiketune.zoo import DataError, Hearing, hear, load_data, to_frames
from spiketune.zoo.audio import read_audio
from spiketune.zoo.events import Bins
from spiketune.zoo.speech import crossings, mel_energies, mel_filters, resampled

SOUND = tone(440, 8000, 0.01)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "1a.wav"


class TestAudio:
    def test_reads_riff(self, file: Path) -> None:
        write_wav(file, SOUND, 8000)
        samples, rate = read_audio(file)
        assert rate == 8000 and np.array_equal(samples * 2**15, SOUND)
        write_wav(file, np.stack((SOUND, -SOUND // 3), 1), 8000)
        samples, _ = read_audio(file)
        assert np.allclose(samples * 2**15, (SOUND + -SOUND // 3) / 2)

    @pytest.mark.parametrize("order", ["01", "10"])
    def test_reads_sphere(self, file: Path, order: str) -> None:
        file.write_bytes(sphere(SOUND, 20_000, order))
        samples, rate = read_audio(file)
        assert rate == 20_000 and np.array_equal(samples * 2**15, SOUND)

    def test_sphere_without_a_count_goes_to_the_end(self, file: Path) -> None:
        file.write_bytes(sphere(SOUND, 12_500, sample_count="", sample_coding=""))
        assert np.array_equal(read_audio(file)[0] * 2**15, SOUND)

    @pytest.mark.parametrize("order", ["01", "10", None])
    def test_equals_soundfile(self, file: Path, order: str | None) -> None:
        soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
        if order is None:
            write_wav(file, SOUND, 8000)
        else:
            file.write_bytes(sphere(SOUND, 8000, order))
        expected, rate = soundfile.read(str(file), dtype="float32")
        samples, ours = read_audio(file)
        assert ours == rate and np.array_equal(samples, expected)

    def test_other_codings_go_through_soundfile(self, file: Path) -> None:
        soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
        soundfile.write(str(file), SOUND / 2**15, 8000, subtype="PCM_24", format="WAV")
        samples, rate = read_audio(file)
        assert rate == 8000 and np.allclose(samples * 2**15, SOUND, atol=0.01)
        file.write_bytes(b"no sound at all")
        with pytest.raises(DataError, match="damaged or in a coding that soundfile does not know"):
            read_audio(file)

    def test_without_soundfile_other_codings_are_refused(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "soundfile", None)
        with wave.open(str(file), "wb") as made:
            made.setnchannels(1)
            made.setsampwidth(1)
            made.setframerate(8000)
            made.writeframes(bytes(50))
        shortened = sphere(SOUND, 8000, sample_coding="-s26 pcm,embedded-shorten-v2.00")
        for content in (file.read_bytes(), shortened, b"", b"fLaC"):
            file.write_bytes(content)
            with pytest.raises(DataError, match=r"pip install soundfile, or convert it .*sph2pipe"):
                read_audio(file)

    def test_files_cut_short_are_refused(self, file: Path) -> None:
        write_wav(file, SOUND, 8000)
        riff = file.read_bytes()
        for whole, header in ((riff, 44), (sphere(SOUND, 8000), 1024)):
            for length in (header + 1, header + 60, len(whole) - 1):
                file.write_bytes(whole[:length])
                with pytest.raises(DataError, match="values where its header promises 80"):
                    read_audio(file)
        for length in (9, 500, 1023):
            file.write_bytes(sphere(SOUND, 8000)[:length])
            with pytest.raises(DataError, match="ends within its SPHERE header"):
                read_audio(file)

    def test_bad_sphere_headers_are_refused(self, file: Path) -> None:
        for field in (
            {"sample_rate": ""},
            {"sample_rate": "-i x"},
            {"sample_byte_format": "-s1 1"},
        ):
            file.write_bytes(sphere(SOUND, 8000, **field))
            with pytest.raises(DataError, match="SPHERE header without a valid rate"):
                read_audio(file)
        file.write_bytes(sphere(SOUND, 8000, channel_count="-i -1"))
        with pytest.raises(DataError, match="-1 channels"):
            read_audio(file)

    def test_files_without_samples_are_refused(self, file: Path) -> None:
        write_wav(file, SOUND[:0], 8000)
        with pytest.raises(DataError, match="holds no samples"):
            read_audio(file)
        with pytest.raises(DataError, match="cannot be read"):
            read_audio(file.with_name("none.wav"))


def slow_filters(how: Hearing) -> NDArray[np.float64]:
    """Return the triangles, one frequency at a time."""
    mel = [2595 * math.log10(1 + f / 700) for f in (how.low, how.high)]
    step = (mel[1] - mel[0]) / (how.bands + 1)
    edges = [700 * (10 ** ((mel[0] + k * step) / 2595) - 1) for k in range(how.bands + 2)]
    filters = np.zeros((how.bands, how.fft // 2 + 1))
    for band in range(how.bands):
        left, middle, right = edges[band : band + 3]
        for k in range(filters.shape[1]):
            f = k * how.sample_rate / how.fft
            if left < f <= middle:
                filters[band, k] = (f - left) / (middle - left)
            elif middle < f < right:
                filters[band, k] = (right - f) / (right - middle)
    return filters


HEARINGS = [
    Hearing(),
    Hearing(sample_rate=16_000, bands=20, low=0, high=8000, window=20, hop=5, levels=4, depth=30),
]


class TestMel:
    @pytest.mark.parametrize("how", HEARINGS)
    def test_filters_equal_the_slow_reference(self, how: Hearing) -> None:
        assert np.allclose(mel_filters(how).numpy(), slow_filters(how), atol=1e-5)

    @pytest.mark.parametrize("how", HEARINGS)
    def test_filters_equal_librosa_s(self, how: Hearing) -> None:
        librosa = pytest.importorskip("librosa", reason="librosa is not installed")
        expected = librosa.filters.mel(
            sr=how.sample_rate, n_fft=how.fft, n_mels=how.bands, fmin=how.low, fmax=how.high,
            htk=True, norm=None,
        )  # fmt: skip
        assert np.allclose(mel_filters(how).numpy(), expected, atol=1e-5)

    def test_neighbouring_filters_share_each_frequency(self) -> None:
        """Between the middles of the first and the last band they sum up to 1."""
        how = Hearing(bands=12)
        filters = slow_filters(how)
        between = slice(filters[0].argmax() + 1, filters[-1].argmax())
        assert np.allclose(mel_filters(how).numpy()[:, between].sum(0), 1, atol=1e-5)

    @pytest.mark.parametrize("how", HEARINGS)
    def test_energies_equal_numpy_s_fourier_transform(self, how: Hearing) -> None:
        noise = np.random.default_rng(0).normal(size=4000).astype(np.float32) / 10
        padded = np.pad(noise.astype(np.float64), how.fft // 2)
        window, start = np.zeros(how.fft), (how.fft - how.window_samples) // 2
        turns = np.arange(how.window_samples) / how.window_samples
        window[start : start + how.window_samples] = 0.5 - 0.5 * np.cos(2 * np.pi * turns)
        energies = np.array([
            slow_filters(how) @ np.abs(np.fft.rfft(padded[first : first + how.fft] * window)) ** 2
            for first in range(0, len(padded) - how.fft + 1, how.hop_samples)
        ])  # fmt: skip
        expected = 1 + 10 * np.log10(energies / energies.max()) / how.depth
        found = mel_energies(noise, how)
        assert found.shape == energies.shape and found.max() == 1
        assert np.allclose(found.numpy(), expected.clip(0), atol=1e-4)

    @pytest.mark.parametrize("band", [3, 10, 20, 31])
    @pytest.mark.parametrize("rate", [12_500, 16_000, 20_000])
    def test_a_pure_tone_lands_in_its_band(self, band: int, rate: int) -> None:
        how = Hearing()
        mel = np.linspace(
            *(2595 * np.log10(1 + f / 700) for f in (how.low, how.high)), how.bands + 2
        )
        middle = 700 * (10 ** (mel[band + 1] / 2595) - 1)
        samples = tone(middle, rate).astype(np.float32) / 2**15
        energies = mel_energies(resampled(samples, rate, how), how)
        assert (energies[5:-5].argmax(1) == band).all()
        assert hear(samples, rate, how)["x"].tolist().count(band) > 0

    def test_resampling_keeps_the_sound(self) -> None:
        how = Hearing()
        fine, coarse = (tone(700, rate).astype(np.float32) / 2**15 for rate in (20_000, 12_500))
        assert np.abs(resampled(fine, 20_000, how) - coarse)[100:-100].max() < 2e-3

    def test_a_rate_too_low_is_refused(self) -> None:
        with pytest.raises(
            DataError, match=r"a\.wav: sound of 8000 samples a second holds nothing"
        ):
            hear(SOUND.astype(np.float32), 8000, where="a.wav")

    def test_silence_is_refused(self) -> None:
        with pytest.raises(DataError, match="silent throughout"):
            hear(np.zeros(5000, np.float32), 12_500)

    def test_bands_without_a_frequency_are_refused(self) -> None:
        with pytest.raises(DataError, match="too narrow for a spectrum of 512 samples"):
            mel_filters(Hearing(bands=200))

    @pytest.mark.parametrize(
        "setting",
        [
            {"sample_rate": 0}, {"window": 0.1}, {"hop": 0}, {"bands": 0}, {"low": -1},
            {"low": 7000}, {"high": 7000}, {"depth": 0}, {"levels": 0}, {"depth": math.inf},
        ],
    )  # fmt: skip
    def test_settings_out_of_range_are_named(self, setting: dict[str, Any]) -> None:
        with pytest.raises(DataError, match=" must be "):
            Hearing(**setting)


class TestCrossings:
    @given(
        rows=st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=9),
        levels=st.integers(1, 6),
    )
    def test_equal_a_slow_reference(self, rows: list[list[float]], levels: int) -> None:
        energies = torch.tensor(rows, dtype=torch.float64)
        found = crossings(energies, levels)
        assert found.shape == (len(rows), 2, levels, 3)
        for level in range(levels):
            for band in range(3):
                above = False
                for t, row in enumerate(rows):
                    now = row[band] >= (level + 1) / (levels + 1)
                    assert found[t, 1, level, band] == (now and not above)
                    assert found[t, 0, level, band] == (above and not now)
                    above = now

    def test_events_are_the_crossings_in_time(self) -> None:
        how = Hearing(levels=5, bins=Bins(steps=51, duration=510_000))
        samples = (
            tone(1000, 12_500).astype(np.float32) / 2**15 * np.hanning(6250).astype(np.float32)
        )
        spikes = crossings(mel_energies(samples, how), 5)
        assert len(spikes) == 51 and spikes.sum() > 20
        assert torch.equal(to_frames(hear(samples, 12_500, how), how.sensor, how.bins), spikes)


def write_corpus(folder: Path, files: dict[str, float], rate: int, upper: bool = False) -> None:
    """Write each file as SPHERE with a tone of some frequency in the middle of silence."""
    for name, frequency in files.items():
        path = folder / (name.upper() if upper else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = np.concatenate([np.zeros(rate // 10, np.int16), tone(frequency, rate, 0.2)])
        path.write_bytes(sphere(sound, rate))


@pytest.mark.usefixtures("empty_machine")
class TestCorpora:
    DIGITS = {  # noqa: RUF012
        "test/man/ae/za.wav": 300, "test/man/ae/1b.wav": 900, "test/man/ae/19za.wav": 900,
        "test/woman/ac/oa.wav": 2000, "test/boy/bb/3a.wav": 900, "train/man/ah/9a.wav": 900,
        "test/man/ae/notes.txt": 900,
    }  # fmt: skip

    @pytest.mark.parametrize("upper", [False, True])
    @pytest.mark.parametrize("below", ["", "tidigits", "data/adults"])
    def test_tidigits(self, tmp_path: Path, below: str, upper: bool) -> None:
        write_corpus(tmp_path / below, self.DIGITS, 20_000, upper)
        data = load_data("tidigits", "test", tmp_path)
        frames, labels = data.tensors  # type: ignore[attr-defined]
        assert labels.tolist() == [1, 0, 10] and frames.shape == (3, 100, 2, 15, 32)
        onsets = frames[:, :, 1].nonzero()
        middle = [onsets[onsets[:, 0] == k, 3].float().mean().item() for k in range(3)]
        assert middle[1] < middle[0] < middle[2]  # bands, by the tones' frequencies
        assert onsets[:, 1].min() in (8, 9) and load_data("tidigits", "train", tmp_path)[0][1] == 9

    @pytest.mark.parametrize("below", ["", "ti46", "ti46_digits"])
    def test_ti46(self, tmp_path: Path, below: str) -> None:
        names = ("ti20/train/f1/00f1set0.wav", "ti20/train/m8/09m8set9.wav",
                 "ti20/train/m8/enm8set9.wav", "ti20/test/f1/03f1s8t1.wav",
                 "ti_alpha/train/f2/0af2set3.wav", "ti_alpha/test/m1/0zm1s1t0.wav")  # fmt: skip
        write_corpus(tmp_path / below, dict.fromkeys(names, 800.0), 12_500)
        root = tmp_path if below != "ti46_digits" else tmp_path / below
        for name, split, labels in (
            ("ti46_digits", "train", [0, 9]), ("ti46_digits", "test", [3]),
            ("ti46_alpha", "train", [0]), ("ti46_alpha", "test", [25]),
        ):  # fmt: skip
            data = load_data(name, split, root)  # type: ignore[arg-type]
            assert [label for _, label in data] == labels  # type: ignore[attr-defined]

    def test_hearing_decides(self, tmp_path: Path) -> None:
        write_corpus(tmp_path, self.DIGITS, 20_000)
        how = Hearing(bands=10, levels=3, bins=Bins(steps=20, duration=400_000))
        data = load_data("tidigits", "test", tmp_path, frames=how)
        assert data[0][0].shape == (20, 2, 3, 10)
        with pytest.raises(DataError, match="the network takes inputs of"):
            load_data("tidigits", "test", tmp_path, frames=how, cfg={"input_size": (5, 2, 3, 10)})

    def test_bad_recordings_are_named(self, tmp_path: Path) -> None:
        write_corpus(tmp_path, self.DIGITS, 20_000)
        path = tmp_path / "train" / "man" / "ah" / "9a.wav"
        for content, message in (
            (path.read_bytes()[:-7], "9a.wav holds .* values where its header promises"),
            (sphere(tone(900, 8000), 8000), "9a.wav: sound of 8000 samples a second"),
            (sphere(np.zeros(9000, np.int16), 20_000), "9a.wav: the sound is silent"),
        ):
            path.write_bytes(content)
            with pytest.raises(DataError, match=message):
                load_data("tidigits", "train", tmp_path)

    def test_folders_without_recordings_are_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "train" / "man").mkdir(parents=True)
        with pytest.raises(DataError, match=r"tidigits is in none of .*root="):
            load_data("tidigits", "train", tmp_path)
