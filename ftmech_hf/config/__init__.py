"""Settings: a YAML file is saved command-line flags, the command line wins, and whatever is wrong is said in a line."""

from ftmech_hf.config.choices import check_literals
from ftmech_hf.config.faults import clean_exit, in_one_line, is_internal, keep_report
from ftmech_hf.config.files import ConfigError, parse_yaml, read_yaml, to_argv
from ftmech_hf.config.garbage import leave_garbage
from ftmech_hf.config.notices import Notice, tell
from ftmech_hf.config.parser import SCALES, field_names, parse_config, peek_setting, read_sections, unknown_key
from ftmech_hf.config.settings import Settings, changed_settings, check_seeds, config_hash, is_place, to_dict

__all__ = [
    "SCALES",
    "ConfigError",
    "Notice",
    "Settings",
    "changed_settings",
    "check_literals",
    "check_seeds",
    "clean_exit",
    "config_hash",
    "field_names",
    "in_one_line",
    "is_internal",
    "is_place",
    "keep_report",
    "leave_garbage",
    "parse_config",
    "parse_yaml",
    "peek_setting",
    "read_sections",
    "read_yaml",
    "tell",
    "to_argv",
    "to_dict",
    "unknown_key",
]
