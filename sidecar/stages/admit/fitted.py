"""At which rates Intel(R) Xeon(R) Processor decodes, transforms and packs: milliseconds a million, of one core.

Written by scripts/fit_costs.py with
pillow 13.0.0, simplejpeg 1.9.0, av 18.1.0, numba 0.68.1, numpy 2.4.6.
Rows and amounts are those of rates.py, the first rate being the constant; behind each row stand the
measurements it was fitted to, and the geometric standard deviation of their ratios to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

RATES: Final[Mapping[tuple[str, ...], tuple[float, ...]]] = MappingProxyType(
    {
        ("job",): (0.02011,),  # 1, 1.00
        ("mono",): (0.02275, 2.152),  # 16, 1.25
        ("pack",): (0.03248, 0.9682),  # 128, 1.55
        ("pack", "audio"): (0.03276, 0.8666),  # 56, 1.78
        ("pack", "audio", "narrow"): (0.0295, 1.324),  # 40, 1.62
        ("pack", "audio", "wide"): (0.02553, 0.6874),  # 16, 1.10
        ("pack", "image"): (0.03816, 1.002),  # 72, 1.32
        ("pack", "image", "narrow"): (0.03138, 0.9211),  # 36, 1.29
        ("pack", "image", "wide"): (0.04867, 1.128),  # 36, 1.30
        ("picture",): (0.02785, 1.387, 1.691, 0.9145),  # 480, 2.01
        ("picture", "avif"): (0.3355, 3.998, 0.0, 84.08),  # 4, 1.00
        ("picture", "bmp"): (0.06561, 0.0, 1.447, 0.1892),  # 6, 1.19
        ("picture", "bmp", "plain", "P"): (0.08967, 0.0, 0.0, 1.579),  # 3, 1.12
        ("picture", "bmp", "plain", "RGB"): (0.05284, 0.0, 0.0, 0.6846),  # 3, 1.17
        ("picture", "gif"): (0.07623, 8.017, 0.0, 0.0),  # 6, 1.13
        ("picture", "gif", "plain"): (0.1164, 7.871, 0.0, 0.0),  # 3, 1.02
        ("picture", "gif", "progressive"): (0.05838, 8.124, 0.0, 0.0),  # 3, 1.01
        ("picture", "jpeg"): (0.01032, 0.2515, 1.559, 8.73),  # 364, 1.66
        ("picture", "jpeg", "plain"): (0.008241, 0.2664, 1.481, 8.286),  # 296, 1.19
        ("picture", "jpeg", "plain", "4:2:0"): (0.008492, 0.3031, 1.375, 7.85),  # 172, 1.12
        ("picture", "jpeg", "plain", "4:2:2"): (0.004154, 0.0, 1.613, 10.77),  # 28, 1.08
        ("picture", "jpeg", "plain", "4:4:4"): (0.005516, 0.0, 1.661, 9.019),  # 56, 1.09
        ("picture", "jpeg", "plain", "CMYK"): (0.1092, 13.71, 0.0, 0.0),  # 12, 1.15
        ("picture", "jpeg", "plain", "L"): (0.009073, 1.083, 1.41, 4.92),  # 28, 1.06
        ("picture", "jpeg", "progressive"): (0.0, 3.012, 1.587, 29.21),  # 68, 1.11
        ("picture", "jpeg", "progressive", "4:2:0"): (0.01347, 8.094, 1.418, 9.034),  # 28, 1.05
        ("picture", "jpeg", "progressive", "4:4:4"): (0.008362, 11.28, 1.63, 13.15),  # 28, 1.03
        ("picture", "jpeg", "progressive", "L"): (0.0, 3.374, 1.615, 24.46),  # 12, 1.07
        ("picture", "png"): (0.09343, 1.867, 0.0, 8.213),  # 62, 1.23
        ("picture", "png", "plain", "1"): (0.1025, 0.0, 0.0, 17.46),  # 3, 1.07
        ("picture", "png", "plain", "L"): (0.06791, 2.123, 0.0, 11.64),  # 14, 1.06
        ("picture", "png", "plain", "LA"): (0.08693, 0.0, 0.0, 13.05),  # 3, 1.01
        ("picture", "png", "plain", "P"): (0.1149, 0.135, 0.0, 10.48),  # 14, 1.07
        ("picture", "png", "plain", "RGB"): (0.09952, 2.475, 0.0, 7.901),  # 14, 1.23
        ("picture", "png", "plain", "RGBA"): (0.08783, 2.671, 0.0, 8.512),  # 14, 1.08
        ("picture", "tiff"): (0.1942, 0.0, 2.229, 0.03282),  # 12, 1.98
        ("picture", "tiff", "plain", "L"): (0.1414, 0.0, 0.0, 1.989),  # 3, 1.06
        ("picture", "tiff", "plain", "RGB"): (0.223, 0.0, 9.002, 0.5607),  # 6, 1.05
        ("picture", "tiff", "plain", "bare"): (0.2173, 0.0, 0.0, 0.6341),  # 3, 1.07
        ("picture", "webp"): (0.07769, 16.94, 0.0, 3.76),  # 26, 1.23
        ("resample",): (0.08297, 2.751, 2.453),  # 16, 1.26
        ("resize",): (0.1063, 0.146, 0.2789),  # 33, 1.35
        ("resize", "pil"): (0.1163, 0.1526, 0.3185),  # 21, 1.34
        ("resize", "torchvision"): (0.09288, 0.1312, 0.2501),  # 12, 1.29
        ("sound",): (0.4488, 10.07, 0.0),  # 72, 1.49
        ("sound", "aac"): (0.8606, 9.456, 8.02),  # 12, 1.05
        ("sound", "aac", "aac"): (0.7614, 0.0, 60.5),  # 4, 1.04
        ("sound", "aac", "mp4"): (0.9052, 10.16, 4.985),  # 8, 1.04
        ("sound", "alac"): (0.4061, 17.8, 8.351),  # 4, 1.01
        ("sound", "flac"): (0.2756, 7.004, 7.898),  # 8, 1.11
        ("sound", "mp3"): (0.3526, 10.64, 10.68),  # 12, 1.20
        ("sound", "opus"): (0.7527, 17.61, 15.55),  # 12, 1.19
        ("sound", "opus", "ogg"): (0.8311, 21.21, 0.0),  # 8, 1.17
        ("sound", "opus", "webm"): (0.5825, 17.53, 0.0),  # 4, 1.02
        ("sound", "pcm"): (0.4126, 6.871, 0.0),  # 20, 1.35
        ("sound", "pcm", "pcm_f32le"): (0.3703, 0.0, 1.536),  # 4, 1.07
        ("sound", "pcm", "pcm_mulaw"): (0.3184, 11.38, 0.0),  # 4, 1.08
        ("sound", "pcm", "pcm_s16le"): (0.7084, 0.0, 3.199),  # 8, 1.31
        ("sound", "pcm", "pcm_s24le"): (0.282, 0.0, 2.288),  # 4, 1.15
        ("sound", "vorbis"): (0.7516, 6.171, 21.91),  # 4, 1.04
        ("spectrum",): (0.1909, 0.6218, 2.144),  # 28, 2.70
        ("spectrum", "Gemma3nAudioFeatureExtractor"): (0.1446, 40.14, 0.0),  # 4, 1.05
        ("spectrum", "Gemma4AudioFeatureExtractor"): (0.146, 18.94, 0.0),  # 4, 1.00
        ("spectrum", "ParakeetFeatureExtractor"): (1.129, 15.85, 0.0),  # 4, 1.05
        ("spectrum", "SeamlessM4TFeatureExtractor"): (0.4237, 30.08, 0.0),  # 4, 1.01
        ("spectrum", "Wav2Vec2FeatureExtractor"): (0.1138, 1.711, 0.0),  # 4, 1.04
        ("spectrum", "WhisperFeatureExtractor"): (0.9469, 5.002, 0.0),  # 8, 1.04
    }
)
