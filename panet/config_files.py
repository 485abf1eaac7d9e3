"""Configuration files of the package by name."""

from pathlib import Path

from .utils.choices import closest
from .utils.errors import UserError

_CONFIG_ROOT = Path(__file__).parent / "configs"


def list_configs() -> list[str]:
    """List the names of all configurations, e.g. "panet_R50_2x.yaml".

    Names of Python configurations start with "lazy/" and end with ".py".
    """
    yaml = [path for path in _CONFIG_ROOT.rglob("*.yaml") if not path.name.startswith("Base-")]
    common = _CONFIG_ROOT / "lazy" / "common"
    python = [path for path in _CONFIG_ROOT.rglob("*.py") if common not in path.parents]
    return sorted(path.relative_to(_CONFIG_ROOT).as_posix() for path in (*yaml, *python))


def get_config_file(config_path: str) -> str:
    """Return the path of a configuration file of the package.

    Args:
        config_path: name from :func:`list_configs`.

    Raises:
        UserError: if the name is unknown; lists the closest names.
    """
    names = list_configs()
    if config_path not in names:
        close = ", ".join(closest(config_path, names))
        raise UserError(f"{config_path!r} is not in PANet's model zoo; the closest are {close}.")
    return str(_CONFIG_ROOT / config_path)


def find_config_file(name_or_path: str) -> str:
    """Return the path of a configuration given by name or path; names take precedence.

    Args:
        name_or_path: name from :func:`list_configs`, or path of a file.

    Raises:
        UserError: if it is neither; lists the closest names.
    """
    if name_or_path not in list_configs() and Path(name_or_path).is_file():
        return name_or_path
    try:
        return get_config_file(name_or_path)
    except UserError as error:
        raise UserError(f"There is no configuration file {name_or_path}: {error}") from None
