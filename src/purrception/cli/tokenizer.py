"""``purrception tokenizer``: one function per verb. Heavy imports wait until a verb needs them."""

from __future__ import annotations

from purrception.cli.converting import convert_tokenizer
from purrception.cli.parsing import Verb

TOKENIZER_VERBS = {
    "convert": Verb(
        convert_tokenizer,
        "tokenizer convert FILE --arch ARCH [--out DIR]",
        "A public checkpoint (LDM's vq-f4, vq-f8, vq-f8-n256, vq-f16; LlamaGen's vq-ds8-c2i, vq-ds16-c2i, "
        "vq-ds16-t2i), or a tokenizer of the hub, into a folder that --tokenizer.path takes.",
        "purrception tokenizer convert vq-f8.ckpt --arch vq-f8 --out tokenizers/vq-f8",
    ),
}
