"""Finds a user's own code by its import path: a model, a data set, a loss, a whole system.

    mypackage.networks:Net      the attribute `Net` of a module that Python can import
    networks.py:Net             the attribute `Net` of a file; relative to the working directory

The working directory is searched as well, as it is by `python -m`. A file is imported under its own
name, and the modules beside it can be imported from it, as when Python runs the file.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from systems.schema import InputError, remedy

OF_TORCH = ("torch.nn", "torch.nn.functional", "torch.optim", "torch.optim.lr_scheduler")
"""Modules whose attributes anyone may name: they only make layers, losses and optimizers."""

INSTALLED = (f"site-packages{os.sep}", f"dist-packages{os.sep}")
"""Folders of installed packages."""
OF_TORCH_ITSELF = f"{os.sep}torch{os.sep}"
"""The folder of torch, none of whose lines tells a user anything."""
STANDARD = sysconfig.get_path("stdlib") + os.sep
"""The folder of Python's own modules."""


def is_foreign(name: str) -> bool:
    """Whether an import path names code that is not torch's, which one should know to run it."""
    return name.rpartition(":")[0] not in OF_TORCH


def is_path(name: str, kinds: Collection[str] = ()) -> bool:
    """Whether a name is an import path.

    Args:
        kinds: words that mean something else before a colon, such as "folder" in `folder:PATH`.
    """
    module, colon, attribute = name.rpartition(":")
    return bool(module and colon and attribute.isidentifier()) and name.split(":")[0] not in kinds


def absolute(name: str, folders: Collection[Path]) -> str:
    """The import path with an absolute file, from the first of the folders that has the file.
    Modules, and files that none has, stay as they are."""
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py"):
        for folder in folders:
            if (folder / module).is_file():
                return f"{os.path.abspath(folder / module)}:{attribute}"
    return name


def short(name: str) -> str:
    """The import path without the folder of its file: a name that is the same on every machine."""
    module, _, attribute = name.rpartition(":")
    return f"{os.path.basename(module)}:{attribute}" if module.endswith(".py") else name


def digests(names: Collection[str]) -> dict[str, str]:
    """The SHA-256, in hexadecimal, of each file that import paths name and that is there."""
    files = {name.rpartition(":")[0] for name in names}
    return {
        file: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for file in sorted(files)
        if file.endswith(".py") and Path(file).is_file()
    }


def load(name: str, option: str) -> Any:
    """Import what an import path names.

    Args:
        option: the option that holds the path, with its dashes, for errors.

    Raises:
        InputError: there is no such module or attribute, or the module cannot be imported.
    """
    module_name, _, attribute = name.rpartition(":")
    module = load_module(name, option)
    if not hasattr(module, attribute):
        own = [key for key in vars(module) if not key.startswith("_")]
        raise InputError(
            f"{option} {name}: {module_name} has no attribute {attribute}; {remedy(attribute, own)}"
        )
    return getattr(module, attribute)


def load_module(name: str, option: str) -> ModuleType:
    """Import the module of an import path; see `load`."""
    module_name, _, _ = name.rpartition(":")
    where = f"{option} {name}"
    try:
        if module_name.endswith(".py"):
            return _import_file(Path(module_name))
        return _import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name:
            raise InputError(
                f"{where}: no module {module_name} in {os.getcwd()} or among the installed "
                "packages; go to its folder, install it, or give path/to/file.py:attribute"
            ) from None
        raise InputError(f"{where}: cannot be imported: {failure(error)}") from error
    except FileNotFoundError:
        raise InputError(f"{where}: no file {module_name}; give an existing one") from None
    except (Exception, SystemExit) as error:  # the module's own code runs here
        raise InputError(f"{where}: cannot be imported: {failure(error)}") from error


def call(factory: Any, name: str, option: str, **known: Any) -> Any:
    """Call a factory with those of the known arguments that it takes, by name.

    Args:
        factory: what `load` has returned for `name` and `option`.

    Raises:
        InputError: it cannot be called, wants another argument, or fails.
    """
    where = f"{option} {name}"
    _check_callable(factory, where)
    return _called(factory, where, **_taken(factory, known, where))


def apply(factory: Any, name: str, option: str, *given: Any, **named: Any) -> Any:
    """Call a factory with all of these arguments; see `call`.

    Args:
        named: most of them come from the option's `-options`, which errors name.
    """
    where = f"{option} {name}"
    _check_callable(factory, where)
    try:
        return _called(factory, where, *given, **named)
    except InputError as error:
        if isinstance(error.__cause__, (TypeError, ValueError)):
            _explain(factory, name, option, given, named)
        raise


def keywords(texts: Collection[str], option: str) -> dict[str, Any]:
    """The keyword arguments that texts such as `lr=0.001` mean. A value is a Python literal, or
    else the text as it is.

    Raises:
        InputError: a text is no NAME=VALUE, or a name comes twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise InputError(f"{option} {text}: write NAME=VALUE, such as lr=0.001")
        if name in arguments:
            raise InputError(f"{option} {text}: {name} is given twice; give it once")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def named_parameters(factory: Any) -> dict[str, bool]:
    """The parameters of a factory that can be given by name; true for those without a default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default is p.empty for p in parameters if p.kind in by_name}


def _check_callable(factory: Any, where: str) -> None:
    """Refuse what cannot be called."""
    if not callable(factory):
        raise InputError(
            f"{where}: is a {type(factory).__name__}; give a class or a function that makes it"
        )


def _called(factory: Any, where: str, *given: Any, **named: Any) -> Any:
    """Call a factory, and turn whatever it raises into one line."""
    try:
        return factory(*given, **named)
    except InputError:
        raise
    except Exception as error:  # the factory's own code runs here
        raise InputError(f"{where}: fails: {failure(error)}") from error


def _explain(
    factory: Any, name: str, option: str, given: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Raise an error that names the argument with which, or without which, a call has failed, if
    it can be told."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature
        return
    kinds = {parameter.kind for parameter in parameters.values()}
    by_name = named_parameters(factory)
    free = list(by_name)[len(given) :]
    for key, value in named.items():
        where = f"{option}-options {key}={value}"
        if key not in by_name and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise InputError(f"{where}: {name} takes no {key}; {remedy(key, free)}")
        default = parameters[key].default if key in by_name else None
        if isinstance(value, str) and type(default) in (int, float):
            raise InputError(
                f"{where}: {name} takes a number there; give one, such as {key}={default}"
            )
    missing = [key for key in free if by_name[key] and key not in named]
    if missing:
        words = " ".join(f"{key}=..." for key in missing)
        raise InputError(
            f"{option} {name}: wants {', '.join(missing)}; give {option}-options {words}"
        )


def _taken(factory: Callable[..., Any], known: dict[str, Any], where: str) -> dict[str, Any]:
    """Choose those of the known arguments that a factory has, by name. A factory that needs another
    one is refused."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return {}
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            return known
        if parameter.name in known and parameter.kind is not parameter.POSITIONAL_ONLY:
            arguments[parameter.name] = known[parameter.name]
        elif (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        ):
            known_words = (
                f"is called with {', '.join(known)} alone" if known else "is called without any"
            )
            raise InputError(
                f"{where}: wants the argument {parameter.name}, and {known_words}; give "
                f"{parameter.name} a default"
            )
    return arguments


def _import_module(name: str) -> ModuleType:
    """Import a module, from the working directory too."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file once, under its own name or, where a module has that name already, another."""
    file = Path(os.path.abspath(path))
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(file):
            return module
    if not file.is_file():
        raise FileNotFoundError(file)
    exists = file.stem in sys.modules or importlib.util.find_spec(file.stem) is not None
    name = f"{file.stem}_{zlib.crc32(str(file).encode()):x}" if exists else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def failure(error: BaseException) -> str:
    """An error of foreign code in one line, with the place in that code: the user's own line where
    there is one, rather than that of an installed package that it has called."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)[1:]  # the first is who caught it
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    last = (own or [frame for frame in frames if OF_TORCH_ITSELF not in frame.filename])[-1:]
    place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
    text = str(error).splitlines()
    return f"{type(error).__name__}{': ' + text[0] if text else ''}{place}"


def _is_installed(file: str) -> bool:
    """Whether a file is of Python or of an installed package."""
    return any(f"{os.sep}{part}" in file for part in INSTALLED) or file.startswith(STANDARD)
