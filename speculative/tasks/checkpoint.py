"""Models and what prepares their inputs, from a folder or, where there is a network, the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speculative.options import Task
from systems.schema import InputError

if TYPE_CHECKING:
    import torch


def check(task: Task, name: str, flag: str) -> None:
    """Refuse what cannot be loaded, before anything is started for it.

    Raises:
        InputError: a folder without a model, or a name that the hub and its cache do not have.
    """
    if not _is_folder(name, flag, task):
        _load(_transformers().AutoConfig, name, flag, task)


def load_model(task: Task, name: str, device: "torch.device", flag: str) -> Any:
    """A causal, T5-like or Whisper model, in evaluation mode.

    Args:
        name: a folder with a model that was saved, or a name on the hub.
        flag: the option that names it, for messages.

    Raises:
        InputError: nothing there, or not a model for the task.
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
    """The tokenizer beside a model; it can pad."""
    tokenizer = _load(_transformers().AutoTokenizer, name, flag, task)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_feature_extractor(name: str, flag: str) -> Any:
    """The spectrogram beside a speech model."""
    return _load(_transformers().AutoFeatureExtractor, name, flag, "transcribe")


def _load(auto: Any, name: str, flag: str, task: Task, **options: Any) -> Any:
    """What transformers load; never code that comes with a model, nor weights that are pickles."""
    from safetensors import SafetensorError  # as transformers have it

    _is_folder(name, flag, task)
    try:
        return auto.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{flag} {name}: cannot be loaded: {first}") from None


def _is_folder(name: str, flag: str, task: Task) -> bool:
    """Whether a name is that of a folder, which must then hold a model."""
    holds_model = (Path(name) / "config.json").is_file()
    looks_like_one = Path(name).is_absolute() or name.count("/") > 1 or name.startswith(".")
    if looks_like_one and not holds_model:
        raise InputError(
            f"{flag} {name}: no model there; python -m launch train-pair {task} trains one"
        )
    return holds_model


def _transformers() -> Any:
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
