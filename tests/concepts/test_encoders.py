"""The open_clip adapter: right preprocessing, no random weights, and errors that say what to do."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conceptatlas.concepts.encoders import TEMPLATES, OpenClipEncoder, TextImageEncoder, check_encoder, embed_words
from conceptatlas.concepts.pretrained import WeightsUnreachable, resolve_source
from conceptatlas.extraction.errors import CheckpointError, UserError

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small open_clip model in a folder, as ``local-dir:`` takes it."""
    import open_clip
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, path / "open_clip_model.safetensors"
    )
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return OpenClipEncoder(f"local-dir:{folder}", device="cpu", batch_size=3)


def _pictures(n, size=(40, 24)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for _ in range(n)]


def test_embeddings_have_unit_norm_whatever_the_batch(encoder):
    pictures = _pictures(7)
    images, texts = encoder.encode_images(pictures), encoder.encode_texts(["a", "striped wing", "b", "c"])
    assert images.shape == (7, 16)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(pictures[5:6])[0], images[5], atol=1e-5)
    assert encoder.encode_images([]).shape == (0, 16)
    assert encoder.dim == 16
    assert isinstance(encoder, TextImageEncoder)


def test_pictures_go_through_the_models_own_validation_transform(encoder):
    picture = _pictures(1, (64, 20))[0]
    resized = picture.resize((32, 32), Image.Resampling.BICUBIC)
    tensor = (torch.tensor(np.asarray(resized)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(encoder._transform(picture), tensor)


def test_grey_and_transparent_pictures_are_taken(encoder):
    assert encoder.encode_images([Image.new("L", (9, 9)), Image.new("RGBA", (9, 9))]).shape == (2, 16)


def test_the_id_is_that_of_the_weights(encoder, folder, tmp_path):
    assert OpenClipEncoder(f"local-dir:{folder}").id == encoder.id
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = {"model_cfg": CONFIG, "preprocess_cfg": {**PREPROCESS, "resize_mode": "shortest"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert OpenClipEncoder(f"local-dir:{tmp_path}").id.split("/")[-1] != encoder.id.split("/")[-1]


def test_fault_52_out_of_memory_halves_the_batch(encoder, monkeypatch):
    real, sizes = encoder._texts, []

    def small(items):
        sizes.append(len(items))
        if len(items) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(items)

    expected = encoder.encode_texts(["a", "b", "c"])
    monkeypatch.setattr(encoder, "_texts", small)
    np.testing.assert_allclose(encoder.encode_texts(["a", "b", "c"]), expected, atol=1e-6)
    assert sizes == [3, 2, 1, 1, 1]


def test_a_word_is_the_mean_of_its_sentences(encoder):
    words = embed_words(encoder, ["wing", "stripes"])
    sentences = encoder.encode_texts([template.format("stripes") for template in TEMPLATES]).mean(axis=0)
    np.testing.assert_allclose(words[1], sentences / np.linalg.norm(sentences), atol=1e-5)
    bare = embed_words(encoder, ["wing"], templates=["{}"])
    np.testing.assert_allclose(bare[0], encoder.encode_texts(["wing"])[0], atol=1e-5)


@pytest.mark.parametrize(("words", "templates"), [(["a"], ["photo"]), ([], None), (["a"], [])])
def test_templates_without_a_place_and_no_words_are_refused(encoder, words, templates):
    with pytest.raises(UserError):
        embed_words(encoder, words, templates=templates)


def test_braces_in_a_word_are_only_letters(encoder):
    assert embed_words(encoder, ["{0} {x}"]).shape == (1, 16)


def test_weights_that_gave_nan_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "open_clip_model.safetensors")
    state["visual.proj"][:] = float("nan")
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="NaN"):
        OpenClipEncoder(f"local-dir:{tmp_path}").encode_images(_pictures(1))


def test_a_folder_without_weights_is_refused_and_never_random(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"no weights.*Random weights are never used"):
        OpenClipEncoder(f"local-dir:{tmp_path}")


def test_a_folder_of_something_else_says_what_it_holds(tmp_path):
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(CheckpointError, match=r"holds model.onnx; give a folder with open_clip_config.json"):
        OpenClipEncoder(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="model_cfg"):
        OpenClipEncoder(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        OpenClipEncoder(f"local-dir:{tmp_path}")


def test_a_torn_checkpoint_is_refused(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="the file is whole"):
        OpenClipEncoder(f"local-dir:{tmp_path}")


def test_weights_of_another_model_are_refused(folder, tmp_path):
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    config = {"model_cfg": {**CONFIG, "embed_dim": 8}, "preprocess_cfg": PREPROCESS}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights belong to this model"):
        OpenClipEncoder(f"local-dir:{tmp_path}")


def test_no_network_says_how_to_use_local_weights(monkeypatch):
    import open_clip

    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip.factory, "_get_hf_config", offline)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    with pytest.raises(WeightsUnreachable, match=r"hub-name.*no route to host.*local-dir:/folder"):
        OpenClipEncoder("hf-hub:org/hub-name")
    with pytest.raises(WeightsUnreachable, match=r"ViT-B-32/openai.*no route to host.*local-dir:/folder"):
        OpenClipEncoder("ViT-B-32", pretrained="openai")


def test_a_hub_that_has_no_such_model_is_a_mistake_and_not_a_missing_network(monkeypatch):
    import open_clip

    class RepositoryNotFoundError(Exception):
        pass

    def missing(*args, **options):
        raise RuntimeError("no configuration") from RepositoryNotFoundError("404")

    monkeypatch.setattr(open_clip.factory, "_get_hf_config", missing)
    with pytest.raises(CheckpointError, match="check the name") as caught:
        OpenClipEncoder("hf-hub:org/hub-name")
    assert not isinstance(caught.value, WeightsUnreachable)


def test_a_hub_model_whose_weights_do_not_arrive_is_refused_and_never_random(monkeypatch):
    import open_clip

    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip.factory, "_get_hf_config", lambda *a, **o: {"model_cfg": CONFIG})
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", offline)
    with pytest.raises(UserError, match="could not be loaded"):
        OpenClipEncoder("hf-hub:org/hub-name")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B32", None, "no model 'ViT-B32'; near it are .*ViT-B-32"),
        ("RN50", None, "needs pretrained=, one of openai"),
        ("ViT-B-32", "laion9b", "no such file, and 'ViT-B-32' has the tags"),
        ("ViT-B-32", "/tmp", "'local-dir:/tmp'"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "tags"),
        ("hf-hub:a/b", "openai", "must be left out"),
        ("local-dir:/nowhere", "openai", "must be left out"),
        ("local-dir:/nowhere", None, "no folder /nowhere"),
    ],
)
def test_a_wrong_name_says_what_would_do(name, pretrained, message):
    with pytest.raises(UserError, match=message):
        OpenClipEncoder(name, pretrained=pretrained)


def test_the_default_tag_is_that_of_the_default_model():
    assert resolve_source("ViT-B-32", None, None).pretrained == "datacomp_xl_s13b_b90k"


def test_quick_gelu_follows_the_tag():
    assert resolve_source("ViT-B-32", "openai", None).quick_gelu
    assert not resolve_source("ViT-B-32", "laion2b_s34b_b79k", None).quick_gelu
    assert resolve_source("ViT-B-32-quickgelu", "openai", None).quick_gelu


def test_quick_gelu_of_a_file_follows_its_name_or_the_user(tmp_path, caplog):
    for name in ("ViT-B-32-openai.pt", "other.pt"):
        (tmp_path / name).write_text("")
    assert resolve_source("ViT-B-32", tmp_path / "ViT-B-32-openai.pt", None).quick_gelu
    assert not resolve_source("ViT-B-32", tmp_path / "other.pt", None).quick_gelu
    assert "quick_gelu=True" in caplog.text
    assert resolve_source("ViT-B-32", tmp_path / "other.pt", True).quick_gelu


def test_a_file_of_siglip_weights_gets_siglips_preprocessing(tmp_path):
    (tmp_path / "w.pt").write_text("")
    preprocess = resolve_source("ViT-B-16-SigLIP2", tmp_path / "w.pt", None).preprocess
    assert preprocess["mean"] == [0.5, 0.5, 0.5]
    assert preprocess["resize_mode"] == "squash"


def test_bad_batch_sizes_and_a_lone_text_are_refused(encoder):
    with pytest.raises(UserError, match="at least 1"):
        OpenClipEncoder("local-dir:/x", batch_size=0)
    with pytest.raises(UserError, match="as a list"):
        encoder.encode_texts("wing")


@pytest.mark.parametrize("encoder", [42, Path("/folder"), object(), OpenClipEncoder])
def test_what_is_no_encoder_is_refused_with_what_it_lacks(encoder):
    with pytest.raises(UserError, match="lacks"):
        check_encoder(encoder)


def test_anything_with_the_four_parts_is_an_encoder():
    stub = SimpleNamespace(id="stub", dim=2, encode_images=len, encode_texts=len)
    assert check_encoder(stub) is stub
