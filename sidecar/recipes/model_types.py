"""config.json's `model_type` -> its processors, as transformers' own auto classes pair them.

For files that name none. Written by scripts/model_types.py; it holds only classes that there are recipes for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MODEL_TYPES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "aimv2": ("CLIPImageProcessor",),
        "aimv2_vision_model": ("CLIPImageProcessor",),
        "altclip": ("CLIPImageProcessor",),
        "audioflamingo3": ("WhisperFeatureExtractor",),
        "clip": ("CLIPImageProcessor",),
        "clipseg": ("ViTImageProcessor",),
        "colpali": ("SiglipImageProcessor",),
        "colqwen2": ("Qwen2VLImageProcessor",),
        "cosmos3_omni": ("Qwen2VLImageProcessor",),
        "data2vec-audio": ("Wav2Vec2FeatureExtractor",),
        "dinat": ("ViTImageProcessor",),
        "dots3_note": ("Qwen2VLImageProcessor",),
        "exaone4_5": ("Qwen2VLImageProcessor",),
        "florence2": ("CLIPImageProcessor",),
        "gemma3n": ("SiglipImageProcessor",),
        "git": ("CLIPImageProcessor",),
        "glmasr": ("WhisperFeatureExtractor",),
        "groupvit": ("CLIPImageProcessor",),
        "hubert": ("Wav2Vec2FeatureExtractor",),
        "hyperclovax_vision_v2": ("Qwen2VLImageProcessor",),
        "ijepa": ("ViTImageProcessor",),
        "kosmos-2": ("CLIPImageProcessor",),
        "lfm3_vl": ("Qwen2VLImageProcessor",),
        "metaclip_2": ("CLIPImageProcessor",),
        "mgp-str": ("ViTImageProcessor",),
        "mlcd": ("CLIPImageProcessor",),
        "moonshine": ("Wav2Vec2FeatureExtractor",),
        "paligemma": ("SiglipImageProcessor",),
        "qwen2_5_omni": ("Qwen2VLImageProcessor", "WhisperFeatureExtractor"),
        "qwen2_5_vl": ("Qwen2VLImageProcessor",),
        "qwen2_audio": ("WhisperFeatureExtractor",),
        "qwen2_vl": ("Qwen2VLImageProcessor",),
        "qwen3_5": ("Qwen2VLImageProcessor",),
        "qwen3_5_moe": ("Qwen2VLImageProcessor",),
        "qwen3_omni_moe": ("Qwen2VLImageProcessor", "WhisperFeatureExtractor"),
        "qwen3_vl": ("Qwen2VLImageProcessor",),
        "qwen4_exp": ("Qwen2VLImageProcessor",),
        "sew": ("Wav2Vec2FeatureExtractor",),
        "sew-d": ("Wav2Vec2FeatureExtractor",),
        "siglip": ("SiglipImageProcessor",),
        "swiftformer": ("ViTImageProcessor",),
        "swin": ("ViTImageProcessor",),
        "swinv2": ("ViTImageProcessor",),
        "trocr": ("ViTImageProcessor",),
        "unispeech": ("Wav2Vec2FeatureExtractor",),
        "unispeech-sat": ("Wav2Vec2FeatureExtractor",),
        "vipllava": ("CLIPImageProcessor",),
        "vit": ("ViTImageProcessor",),
        "vit_mae": ("ViTImageProcessor",),
        "vit_msn": ("ViTImageProcessor",),
        "voxtral": ("WhisperFeatureExtractor",),
        "wav2vec2": ("Wav2Vec2FeatureExtractor",),
        "wav2vec2-bert": ("Wav2Vec2FeatureExtractor",),
        "wav2vec2-conformer": ("Wav2Vec2FeatureExtractor",),
        "wavlm": ("Wav2Vec2FeatureExtractor",),
        "whisper": ("WhisperFeatureExtractor",),
        "xclip": ("CLIPImageProcessor",),
    }
)
"""The classes of a model type, the one for pictures first."""
