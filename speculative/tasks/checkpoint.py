"""Loads models and what prepares their inputs, from a folder or, with a network, from the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speculative.options import Task
from systems.schema import InputError

if TYPE_CHECKING:
    import torch


def check(task: Task, name: str, flag: str) -> None:
    """Refuse a model that cannot be loaded, before anything is started for it.

    Args:
        name: a folder with a model that was saved, or a name on the hub.
        flag: the option that names it, for messages.

    Raises:
        InputError: the folder has no model, or neither the hub nor its cache has the name.
    """
    if not _is_folder(name, flag, task):
        _load(_transformers().AutoConfig, name, flag, task)


def load_model(task: Task, name: str, device: "torch.device", flag: str) -> Any:
    """Load a causal, T5-like or Whisper model, in evaluation mode.

    Args:
        name, flag: as in `check`.

    Raises:
        InputError: there is no model, or it is not one for the task.
    """
    transformers = _transformers()
    config = _load(transformers.AutoConfig, name, flag, task)
    if task == "transcribe":
        auto = transformers.AutoModelForSpeechSeq2Seq
    elif config.is_encoder_decoder:
        auto = transformers.AutoModelForSeq2SeqLM
    else:
        auto = transformers.AutoModelForCausalLM
    return _load(auto, name, flag, task, use_safetensors=True).to(device).eval()


def load_tokenizer(task: Task, name: str, flag: str) -> Any:
    """Load the tokenizer beside a model, and let it pad with its end token if it has no other."""
    tokenizer = _load(_transformers().AutoTokenizer, name, flag, task)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_feature_extractor(name: str, flag: str) -> Any:
    """Load what makes spectrograms for a speech model, from beside it."""
    return _load(_transformers().AutoFeatureExtractor, name, flag, "transcribe")


def _load(auto: Any, name: str, flag: str, task: Task, **options: Any) -> Any:
    """Let a class of transformers load; it never runs code that comes with a model.

    Raises:
        InputError: with the first line of what transformers say.
    """
    from safetensors import SafetensorError

    _is_folder(name, flag, task)
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{flag} {name}: cannot be loaded: {first}") from None


def _is_folder(name: str, flag: str, task: Task) -> bool:
    """Whether a name is a folder's, which must then have a model in it.

    Raises:
        InputError: it looks like a folder, and has no model.
    """
    holds_model = (Path(name) / "config.json").is_file()
    looks_like_one = Path(name).is_absolute() or name.count("/") > 1 or name.startswith(".")
    if looks_like_one and not holds_model:
        raise InputError(
            f"{flag} {name}: no model there; python -m launch train-pair {task} trains one"
        )
    return holds_model


def _transformers() -> Any:
    """The package transformers, made quiet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import huggingface_hub
        import transformers
    except ImportError:
        raise InputError(
            "transformers is not installed; pip install 'systems-testbed[speculative]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
    return transformers
