"""Named recipes: functions that return the configuration of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from purrception.data import DataConfig
from purrception.evaluation import ClassifierConfig, EvaluationConfig
from purrception.experiment.config import RunConfig, TokenizerConfig
from purrception.flow import ObjectiveConfig, SamplingConfig
from purrception.flow.settings import public_sampling
from purrception.models import DiTConfig, HeadConfig
from purrception.tokenizers import TokenizerTrainingConfig, VQConfig
from purrception.training import TrainingConfig
from purrception.utils.errors import unknown_name


def digits() -> RunConfig:
    """Real handwritten digits, class-conditional; a few minutes on a laptop's CPU, no download."""
    return RunConfig(
        name="digits",
        data=DataConfig(source="digits", image_size=16, channels=1),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=256, codebook_dim=4, channels=(32, 32, 64)),
            training=TokenizerTrainingConfig(steps=500),
        ),
        network=DiTConfig(depth=4, width=96, heads=4, patch_size=1),
        training=TrainingConfig(
            steps=3000,
            batch_size=64,
            learning_rate=5e-3,
            betas=(0.9, 0.99),
            weight_decay=0.05,
            decay="cosine",
            ema_decay=0.995,
            validate_every=500,
            sample_every=500,
            checkpoint_every=500,
        ),
        sampling=SamplingConfig(num_inference_steps=50, temperature=0.9),
        # As many images as the training set has, so that the distance and its floor have the same bias.
        evaluation=EvaluationConfig(num=1440),
    )


def photos() -> RunConfig:
    """Crops of two colour photographs, class-conditional, K = 1024; minutes on two CPU cores, no download."""
    return RunConfig(
        name="photos",
        data=DataConfig(source="photos", image_size=32, channels=3, test_fraction=0.3),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=1024, codebook_dim=8, channels=(16, 32, 64), normalisation="none"),
            # A batch holds two sites per code, so that a threshold near 2 would restart half the codebook.
            training=TokenizerTrainingConfig(steps=1000, batch_size=32, dead_code_threshold=0.25),
        ),
        network=DiTConfig(depth=6, width=128, heads=4, patch_size=1),
        training=TrainingConfig(
            steps=1200,
            batch_size=32,
            learning_rate=2e-3,
            betas=(0.9, 0.99),
            decay="cosine",
            ema_decay=0.995,
        ),
        sampling=SamplingConfig(num_inference_steps=50, temperature=0.9),
        # With two classes a classifier learns little, and its features differ from one training to the next.
        evaluation=EvaluationConfig(features="texture"),
    )


FASHION_CLASSES = (
    "T-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""Fashion-MNIST's classes by label (arXiv 1708.07747, table 2)."""


def fashion() -> RunConfig:
    """Fashion-MNIST, class-conditional, from Debian's package, a folder (--data.root DIR) or the hub.

    28×28 pixels with a border of two make 32, so that no filter blurs them; the 10 000 test images are held out.
    """
    return RunConfig(
        name="fashion",
        data=DataConfig(
            source="idx",
            root="/usr/share/datasets/fashion-mnist",
            image_size=32,
            channels=1,
            class_names=FASHION_CLASSES,
            enlarge=False,
        ),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=256, codebook_dim=8, channels=(16, 32), normalisation="none"),
            training=TokenizerTrainingConfig(steps=1500, batch_size=32),
        ),
        network=DiTConfig(depth=4, width=192, heads=6, patch_size=2),
        head=HeadConfig("geometric", evidence=True),
        training=TrainingConfig(
            steps=8500,
            batch_size=64,
            learning_rate=2e-3,
            betas=(0.9, 0.99),
            weight_decay=0.05,
            decay="cosine",
            ema_decay=0.999,
            validate_every=500,
            sample_every=1000,
            checkpoint_every=500,
        ),
        sampling=SamplingConfig(
            num_inference_steps=16, solver="dpmpp_2m", timestep_spacing="cosine", temperature=0.8
        ),
        evaluation=EvaluationConfig(
            num=1000,
            # Shirts, pullovers and coats are hard to tell apart: 400 steps of the plain network reach 81 %.
            classifier=ClassifierConfig(
                steps=3000, learning_rate=6e-3, weight_decay=0.05, blocks=1, images=60_000
            ),
        ),
    )


def emoji() -> RunConfig:
    """Emoji in Unicode's nine categories, which pip installs (extra emoji); more styles by --data.styles."""
    like = fashion()
    return RunConfig(
        name="emoji",
        data=DataConfig(source="emoji", image_size=64, channels=3, test_fraction=0.15),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=1024, codebook_dim=8, channels=(16, 32, 64), normalisation="none"),
            training=TokenizerTrainingConfig(steps=3000, batch_size=32, dead_code_threshold=0.25),
        ),
        network=like.network,
        head=like.head,
        training=replace(like.training, steps=3000),
        sampling=like.sampling,
        evaluation=EvaluationConfig(
            num=900,
            guidances=(1.0, 2.0),
            # 1597 pictures teach no more: 65 to 71 % of held-out ones, where the defaults reach 61 %.
            classifier=ClassifierConfig(
                steps=2500,
                batch_size=32,
                learning_rate=3e-3,
                weight_decay=0.2,
                blocks=1,
                dropout=0.3,
                distortion=0.2,
            ),
        ),
    )


def emoji_gpu() -> RunConfig:
    """The same in about eight minutes of one H100: two for the tokenizer, five for a DiT-S, one to judge it."""
    small = emoji()
    return replace(
        small,
        name="emoji-gpu",
        tokenizer=TokenizerConfig(
            model=replace(small.tokenizer.model, codebook_size=2048, channels=(64, 128, 256)),
            training=replace(small.tokenizer.training, steps=4000, batch_size=128, learning_rate=1e-3),
        ),
        network=DiTConfig.preset("S/1"),
        training=replace(
            small.training, steps=5000, batch_size=256, learning_rate=1e-3, compile=True, sample_every=2500
        ),
    )


def folder() -> RunConfig:
    """Your own images, in class subfolders or, for an unconditional model, without. Give --data.root.

    :func:`fit_to_images` chooses the sizes to suit the images; those here are medium ones.
    """
    return RunConfig(
        name="folder",
        data=DataConfig(source="folder", image_size=0, channels=3, test_fraction=0.05),
        tokenizer=TokenizerConfig(
            model=VQConfig(codebook_size=1024, codebook_dim=8, channels=(64, 128, 128, 256), layers=2),
            training=TokenizerTrainingConfig(steps=20_000, learning_rate=5e-4, report_every=500),
        ),
        network=DiTConfig.preset("S/1"),
        training=TrainingConfig(steps=100_000, batch_size=128, checkpoint_every=2500, sample_every=2500),
        sampling=SamplingConfig(num_inference_steps=50, temperature=0.9),
    )


def _as_in_the_paper(name: str, size: str, data: DataConfig, steps: int = 400_000) -> RunConfig:
    """A DiT of patch 2 over vq-f8's codes, with the paper's optimiser and schedule.

    The paper gives AdamW at 1e-4 with (0.9, 0.999), bfloat16, EMA and clipping at 1.0, which are the defaults of
    :class:`TrainingConfig`; here the constant learning rate has no warm-up. Batch size 256 is DiT's. For the
    vq-ds8 tokenizer, give --tokenizer.arch vq-ds8-c2i.
    """
    return RunConfig(
        name=name,
        data=data,
        tokenizer=TokenizerConfig(arch="vq-f8"),
        network=DiTConfig.preset(f"{size}/2"),
        training=TrainingConfig(
            steps=steps,
            batch_size=256,
            warmup_steps=0,
            log_every=100,
            validate_every=5000,
            sample_every=10_000,
            checkpoint_every=5000,
        ),
        sampling=SamplingConfig(
            num_inference_steps=250, temperature=0.9, guidance_scale=1.0 if data.classes == 0 else 1.3
        ),
        evaluation=EvaluationConfig(num=10_000),
    )


def imagenet256(size: str, steps: int) -> RunConfig:
    """ImageNet at 256 pixels, class-conditional: 1000 folders in --data.root, tars, or a hub data set.

    The paper's final result with XL takes 3.5 million ``steps``; its comparisons take fewer.
    """
    data = DataConfig(source="folder", image_size=256, channels=3, classes=1000, test_fraction=0.01)
    return _as_in_the_paper(f"imagenet256-{size.lower()}", size, data, steps)


def paper_code(name: str, size: str) -> RunConfig:
    """ImageNet at 256 pixels as in the paper's public code (razvanmatisan/purrception), rather than its text.

    The code's example configurations differ only in size and tokenizer (--tokenizer.arch vq-ds8-c2i). They have a
    batch of 8 for each GPU, but do not state the number of GPUs; eight are assumed, as on one machine. The code
    trains on all of the training images, and evaluates against the validation images: evaluate --reference FOLDER.
    Settings of dfm apply with --objective.name dfm. docs/how-to/recipes.md lists the differences, and what is not
    reproduced.
    """
    recipe = imagenet256(size, 4_000_000)
    return replace(
        recipe,
        name=name,
        data=replace(recipe.data, test_fraction=0.0),
        tokenizer=replace(recipe.tokenizer, standardise=False),
        objective=ObjectiveConfig(sites="all", embedding="learned"),
        network=replace(recipe.network, time_scale=1.0),
        training=replace(
            recipe.training,
            batch_size=64,
            weight_decay=0.01,
            label_dropout=0.0,
            time_range=(1e-3, 1.0),
            time_precision="bfloat16",
            sample_every=5000,
        ),
        sampling=public_sampling("dfm"),
        evaluation=EvaluationConfig(num=10_000, guidances=(1.0,), features="inception", truncate=True),
    )


def unconditional(name: str, image_size: int) -> RunConfig:
    """Images without classes, in any subfolder of --data.root: FFHQ's numbered folders, an LSUN scene, COCO."""
    data = DataConfig("folder", image_size=image_size, channels=3, classes=0, flips=True, test_fraction=0.02)
    return _as_in_the_paper(name, "B" if image_size < 256 else "L", data)


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "photos": photos,
    "fashion": fashion,
    "emoji": emoji,
    "emoji-gpu": emoji_gpu,
    "folder": folder,
    "imagenet256-b": partial(imagenet256, "B", 400_000),
    "imagenet256-l": partial(imagenet256, "L", 400_000),
    "imagenet256-xl": partial(imagenet256, "XL", 3_500_000),
    "paper-code": partial(paper_code, "paper-code", "XL"),
    "paper-code-l": partial(paper_code, "paper-code-l", "L"),
    "paper-code-b": partial(paper_code, "paper-code-b", "B"),
    "ffhq": partial(unconditional, "ffhq", 256),
    "ffhq128": partial(unconditional, "ffhq128", 128),
    "lsun": partial(unconditional, "lsun", 256),
    "lsun128": partial(unconditional, "lsun128", 128),
    "coco": partial(unconditional, "coco", 256),
    "coco128": partial(unconditional, "coco128", 128),
}

IMAGE_SIZES = (32, 64, 128, 256)
SMALL_IMAGES = 64
"""Images of fewer pixels a side take a tokenizer with a fine grid."""
NETWORKS = ((5_000, "mini"), (50_000, "tiny"), (500_000, "S"))
"""(number of images up to which it is used, size of DiT); B for more images."""
EPOCHS = 400
SITES_PER_CODE, FEW_CODES = 10, 256
"""Sites of training images that each code of a large codebook should have; codes of a small one."""

HELD_OUT, MOST_HELD_OUT = 50, 0.2
"""Images that a small folder holds out, as many as judging a tokenizer needs, and the largest share of it."""


def fit_to_images(recipe: RunConfig, data: DataConfig) -> tuple[RunConfig, str]:
    """A recipe with sizes that suit the user's images, and a line that describes them.

    The image size is the largest of 32, 64, 128 and 256 that half of the images reach without being enlarged.
    Images below 64 pixels take the tokenizer of :func:`fashion`, whose fine grid reconstructs them better than a
    larger one with group normalisation (docs/results/tokenizers.md), and a network with patches of 2×2 codes. The
    codebook is small where there are too few images to
    train a large one; the network grows with their number; training takes 400 epochs, within limits. Small folders
    hold out a larger share, since a few images judge nothing.

    Args:
        recipe: the source of all other settings.
        data: the images; an ``image_size`` other than 0 is kept.

    Raises:
        InputError: there are no images, or none can be read.
    """
    from purrception.data import Survey

    survey = Survey.of(data)
    size = data.image_size or max(
        (side for side in IMAGE_SIZES if side <= survey.short_side), default=IMAGE_SIZES[0]
    )
    small = size < SMALL_IMAGES
    tokenizer = fashion().tokenizer if small else recipe.tokenizer
    side = size // tokenizer.model.downsampling
    if survey.images * side**2 < SITES_PER_CODE * tokenizer.model.codebook_size:
        tokenizer = replace(tokenizer, model=replace(tokenizer.model, codebook_size=FEW_CODES))
    name = next((name for limit, name in NETWORKS if survey.images <= limit), "B")
    preset = f"{name}/{2 if side % 2 == 0 and (small or side > 16) else 1}"
    batch = min(recipe.training.batch_size, max(8, survey.images // 4))
    steps = round(min(max(EPOCHS * survey.images / batch, 5000), 400_000), -3)
    share = min(max(recipe.data.test_fraction, HELD_OUT / survey.images), MOST_HELD_OUT)
    fitted = replace(
        recipe,
        data=replace(
            recipe.data,
            image_size=size,
            channels=1 if survey.grey else 3,
            test_fraction=max(recipe.data.test_fraction, round(share, 2)),
        ),
        tokenizer=tokenizer,
        network=DiTConfig.preset(preset),
        training=replace(recipe.training, steps=int(steps), batch_size=batch),
    )
    return fitted, (
        f"chosen for {survey.images} {'grey' if survey.grey else 'colour'} images in {survey.classes or 'no'} "
        f"classes, half of them at least {survey.short_side} pixels: {size}×{size} pixels, a grid of "
        f"{side}×{side} codes, DiT {preset}, {int(steps)} steps of {batch} images; options on the command line "
        "take precedence"
    )


def get_recipe(name: str) -> RunConfig:
    """The recipe with a name.

    Raises:
        InputError: it is unknown; the nearest known name is suggested.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
